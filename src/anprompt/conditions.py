"""Test conditions: the same pictures and class names, disturbed in a seeded way.

A condition is written `image:FAMILY:SEVERITY` or `text:OPERATOR:STRENGTH`. Its noise depends on the
picture or class and on nothing else, so every method and every training seed meets the same noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from anprompt.data.types import Item
from anprompt.data.views import centre_view
from anprompt.errors import UserError, choices
from anprompt.methods import Classifier, Method
from anprompt.noise.image import IMAGE_NOISE, SEVERITIES, corrupt, picture_rng
from anprompt.noise.seeds import stable_seed
from anprompt.noise.text import DEFAULT_OPS, STRENGTHS, TEXT_NOISE, perturb

NOISE_SEED = 0
Read = Callable[[Item], Image.Image]


@dataclass(frozen=True)
class Condition:
    """One disturbance: of pictures ("image") or of class names ("text")."""

    kind: str
    family: str
    strength: int

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`image:motion_blur:3` or `text:typo:2`.

        Raises:
            UserError: another form, or a family or strength that does not exist.
        """
        parts = text.split(":")
        if len(parts) != 3 or not parts[2].isdigit():
            raise UserError(
                f"Condition {text!r} is not KIND:FAMILY:STRENGTH, like image:fog:3 or text:typo:2."
            )
        kind, family, strength = parts[0], parts[1], int(parts[2])
        known: dict[str, tuple[Iterable[str], Sequence[int]]] = {
            "image": (IMAGE_NOISE, SEVERITIES),
            "text": (TEXT_NOISE, tuple(STRENGTHS)),
        }
        if kind not in known:
            raise choices("kind of condition", kind, known)
        families, strengths = known[kind]
        if family not in set(families):
            raise choices(f"{kind} noise", family, families)
        if strength not in strengths:
            raise choices("strength", strength, strengths)
        return cls(kind, family, strength)

    def __str__(self) -> str:
        return f"{self.kind}:{self.family}:{self.strength}"

    @property
    def title(self) -> str:
        """As a person reads it."""
        words = self.family.replace("_", " ")
        return (
            f"{words}, severity {self.strength}"
            if self.kind == "image"
            else f"{words} in names, strength {self.strength}"
        )

    @property
    def seen_in_training(self) -> bool:
        """Whether ANPrompt's own noisy sentences are made with this operator; picture noise never is."""
        return self.kind == "text" and self.family in DEFAULT_OPS

    def reader(self, read: Read, size: int) -> Read:
        """Reads pictures as a model of this input size gets them, corrupted."""
        if self.kind != "image":
            return read

        def noisy(item: Item) -> Image.Image:
            rng = picture_rng(NOISE_SEED, item.path, self.family, self.strength)
            view = corrupt(centre_view(read(item), size), self.family, self.strength, rng=rng)
            return Image.fromarray(view)

        return noisy

    def names(self, classnames: Sequence[str]) -> list[str]:
        """The class names as the text encoder gets them."""
        if self.kind != "text":
            return list(classnames)
        return [
            perturb(
                "{}", name, ops=[self.family], strength=self.strength, target="classname",
                rng=random.Random(stable_seed(NOISE_SEED, name, self.family, self.strength)),
            )
            for name in classnames
        ]  # fmt: skip

    def classifier(self, method: Method, classnames: Sequence[str]) -> Classifier:
        """A classifier that was given the disturbed names; the head is that of the true names."""
        head = Classifier(method, classnames).head
        disturbed = Classifier(method, self.names(classnames), head)
        disturbed.classnames = tuple(classnames)  # results are counted under the true names
        return disturbed
