"""Test conditions: the same pictures and class names, disturbed in a seeded way.

    image:FAMILY:SEVERITY        corrupted pictures
    text:OPERATOR:STRENGTH       noise on the class names alone
    template:OPERATOR:STRENGTH   noise on the words around them alone
    template:unseen:NUMBER       another wording, which is in no list that anything trains with
    template:description:NUMBER  a sentence about the class (its NUMBERth, counted round) in place of the template

The noise depends on the picture or class and on nothing else, so every method and every training seed
meets the same noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from anprompt.data.crop import centre_view
from anprompt.data.identity import identities
from anprompt.data.names import spoken
from anprompt.data.types import Item
from anprompt.errors import UserError, choices
from anprompt.noise.image import IMAGE_NOISE, SEVERITIES, corrupt, picture_rng
from anprompt.noise.seeds import stable_seed
from anprompt.noise.text import STRENGTHS, TEXT_NOISE, perturb

NOISE_SEED = 0
Read = Callable[[Item], Image.Image]
Descriptions = Mapping[str, Sequence[str]]

# Whole sentences that someone else would write: neither CLIP's, CoOp's or PromptSRC's lists nor the
# paraphrases of the text noise have them.
UNSEEN_TEMPLATES = ("what the picture shows is called {}.", "{}, seen on its own.", "find the {} here.")
UNSEEN, DESCRIPTION = "unseen", "description"
NUMBERS = (1, 2, 3)


@dataclass(frozen=True)
class Condition:
    """One disturbance: of pictures ("image"), of class names ("text"), or of the words around ("template")."""

    kind: str
    family: str
    strength: int

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`image:motion_blur:3`, `text:typo:2` or `template:paraphrase:1`.

        Raises:
            UserError: another form, or a family or strength that does not exist.
        """
        parts = text.split(":")
        if len(parts) != 3 or not (parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 9):
            raise UserError(f"Condition {text[:200]!r} is not KIND:FAMILY:STRENGTH, like image:fog:3 or text:typo:2.")
        kind, family, strength = parts[0], parts[1], int(parts[2])
        known: dict[str, tuple[Iterable[str], Sequence[int]]] = {
            "image": (IMAGE_NOISE, SEVERITIES),
            "text": (TEXT_NOISE, tuple(STRENGTHS)),
            "template": ((*TEXT_NOISE, UNSEEN, DESCRIPTION), tuple(STRENGTHS)),
        }
        if kind not in known:
            raise choices("kind of condition", kind, known)
        families, strengths = known[kind]
        if family not in set(families):
            raise choices(f"{kind} noise", family, families)
        if strength not in (NUMBERS if family in (UNSEEN, DESCRIPTION) else strengths):
            raise choices("strength", strength, strengths)
        return cls(kind, family, strength)

    def __str__(self) -> str:
        return f"{self.kind}:{self.family}:{self.strength}"

    @property
    def title(self) -> str:
        """As a person reads it."""
        words = self.family.replace("_", " ")
        if self.kind == "image":
            return f"{words}, severity {self.strength}"
        if self.family in (UNSEEN, DESCRIPTION):
            return f"{'unseen template' if self.family == UNSEEN else words} {self.strength}"
        return f"{words} in {'names' if self.kind == 'text' else 'templates'}, strength {self.strength}"

    def is_among(self, families: Collection[str]) -> bool:
        """Whether a training with these families of noise (`MethodConfig.noise_families`) has met this kind."""
        return self.family in families

    # --- pictures ---------------------------------------------------------------------------------
    def view(self, item: Item, view: np.ndarray) -> np.ndarray:
        """A picture at the model's input size, uint8 [H, W, 3], corrupted; other conditions leave it."""
        if self.kind != "image":
            return view
        rng = picture_rng(NOISE_SEED, identities([item])[0], self.family, self.strength)
        return corrupt(view, self.family, self.strength, rng=rng)

    def reader(self, read: Read, size: int) -> Read:
        """Reads pictures as a model of this input size gets them, corrupted."""
        if self.kind != "image":
            return read

        def noisy(item: Item) -> Image.Image:
            return Image.fromarray(self.view(item, centre_view(read(item), size)))

        return noisy

    # --- words ------------------------------------------------------------------------------------
    def names(self, classnames: Sequence[str]) -> list[str]:
        """The class names as the text encoder gets them."""
        words = [spoken(name) for name in classnames]
        return [self._noisy("{}", name, "classname") for name in words] if self.kind == "text" else words

    def sentences(
        self, classnames: Sequence[str], template: str, descriptions: Descriptions | None = None
    ) -> list[str]:
        """The sentence per class, for methods that read one.

        Raises:
            UserError: a description is asked for and the class has none.
        """
        names = self.names(classnames)
        if self.family == DESCRIPTION:
            return [self._description(name, descriptions or {}) for name in classnames]
        if self.family == UNSEEN:
            template = UNSEEN_TEMPLATES[self.strength - 1]
        elif self.kind == "template":
            return [self._noisy(template, name, "template") for name in names]
        return [template.format(name) for name in names]

    def _noisy(self, template: str, name: str, target: str) -> str:
        key = (NOISE_SEED, name, self.family, self.strength, *((target,) if target == "template" else ()))
        return perturb(
            template, name, ops=[self.family], strength=self.strength, target=target,
            rng=random.Random(stable_seed(*key)),
        )  # fmt: skip

    def _description(self, name: str, descriptions: Descriptions) -> str:
        known = descriptions.get(name)
        if not known:
            raise UserError(
                f"{self}: no description of class {name!r}; give a JSON file {{class: [sentences]}} with "
                "--descriptions."
            )
        return known[(self.strength - 1) % len(known)]


# --- lists of conditions --------------------------------------------------------------------------
QUICK = (
    "image:gaussian_noise:3", "image:defocus_blur:3", "image:fog:3", "image:jpeg_compression:3", "image:occluded:3",
    "text:case:2", "text:typo:1", "text:typo:2", "text:typo:3",
    "template:paraphrase:2", "template:typo:2", "template:unseen:1",
)  # fmt: skip


def described(numbers: Iterable[int] = NUMBERS) -> tuple[str, ...]:
    """The conditions of unseen class descriptions."""
    return tuple(f"template:{DESCRIPTION}:{number}" for number in numbers)


def all_conditions(descriptions: bool = False) -> tuple[str, ...]:
    """Every family of picture noise in five severities; every operator in three strengths, on class names
    and on templates apart; unseen templates, and descriptions where the classes have some."""
    found = [f"image:{family}:{severity}" for family in IMAGE_NOISE for severity in SEVERITIES if severity]
    for kind in ("text", "template"):
        # another wording has no part in a name
        operators = [name for name in TEXT_NOISE if kind == "template" or name != "paraphrase"]
        found += [f"{kind}:{name}:{strength}" for name in operators for strength in STRENGTHS if strength]
    found += [f"template:{UNSEEN}:{number}" for number in NUMBERS]
    return tuple(found) + (described() if descriptions else ())
