"""Pictures and class lists in, logits out; class lists are encoded in one thread, pictures in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anprompt.data.views import normalised
from anprompt.errors import UserError
from anprompt.evaluation.inference import image_states, logits_of
from anprompt.methods import create_method
from anprompt.methods.base import Head, Method, Parts
from anprompt.methods.classifier import Classifier
from anprompt.prompting.compute import threads_for
from anprompt.prompting.prompts import ImageState
from anprompt.utils.byte_cache import ByteCache

KEPT_BYTES = 256 * 2**20

Names = tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One picture to name.

    Attributes:
        view: the picture as the model gets it, [size, size, 3] uint8.
        names: the class list.
        zeroshot: whether plain CLIP is asked too.
    """

    view: np.ndarray
    names: Names
    zeroshot: bool = False


@dataclass(frozen=True)
class Scores:
    """Scaled logits [C] in fp32 of the adapter, and of plain CLIP where it was asked."""

    adapter: Tensor
    zeroshot: Tensor | None
    head: Head


class Engine:
    """A method, plain CLIP on the same backbone, and the text features of recent class lists.

    Args:
        lists: most class lists to keep; they are also bounded to `kept_bytes`.
        pinned: a list that is never forgotten, whatever others ask.
    """

    def __init__(self, method: Method, lists: int = 64, kept_bytes: int = KEPT_BYTES, pinned: Names = ()) -> None:
        self.method, self.backbone, self.pinned = method, method.backbone, pinned
        self.plain = create_method("zeroshot", self.backbone, ("thing",), template=method.template)
        self._ready: ByteCache[tuple[Names, bool], Classifier] = ByteCache(kept_bytes, lists)

    def encode(self, lists: Sequence[tuple[Names, bool]]) -> list[bool | Exception]:
        """Encode class lists, and for plain CLIP where the second says so, so that `run` finds them.

        A new list of hundreds of names takes seconds on a large model; pictures for other lists go on meanwhile.
        """
        results: list[bool | Exception] = []
        with threads_for(self.backbone), torch.no_grad():
            for names, zeroshot in lists:
                try:
                    for plain in {False, zeroshot}:
                        self.classifier(names, plain)
                    results.append(True)
                except Exception as error:  # told to the one who asked, and no other
                    results.append(error)
        return results

    def known(self, names: Names, zeroshot: bool) -> bool:
        """Whether `run` would find that list encoded."""
        return all((names, plain) in self._ready for plain in {False, zeroshot})

    def run(self, tasks: Sequence[Task]) -> list[Scores | Exception]:
        """Scores, or the `UserError` of a class list that can't be encoded, per task.

        The trunk of the vision encoder runs once for all pictures; then each class list answers for its own.
        """
        with threads_for(self.backbone), torch.no_grad():
            pixels = normalised(np.stack([task.view for task in tasks]), self.backbone.mean, self.backbone.std)
            # Plain CLIP reads the frozen features; most methods alone do not.
            parts: Parts = "both" if any(task.zeroshot for task in tasks) else self.method.reads
            vision = image_states(self.method, pixels.__getitem__, torch.arange(len(tasks)), parts)
            results: list[Scores | Exception] = [UserError("")] * len(tasks)
            for names in dict.fromkeys(task.names for task in tasks):
                rows = [index for index, task in enumerate(tasks) if task.names == names]
                zeroshot = any(tasks[row].zeroshot for row in rows)
                part = vision if len(rows) == len(tasks) else ImageState(vision.trunk[rows], vision.frozen[rows])
                for row, result in zip(rows, self._answers(part, names, zeroshot, len(rows))):
                    results[row] = result
        return results

    def _answers(self, vision: ImageState, names: Names, zeroshot: bool, count: int) -> Sequence[Scores | Exception]:
        try:
            ready = self.classifier(names)
            adapter = logits_of(self.method, vision, ready.text, ready.head, ready.temperature)
            plain: Tensor | None = None
            if zeroshot:
                text = self.classifier(names, plain=True).text
                plain = logits_of(self.plain, vision, text)
        except UserError as error:
            return [error] * count
        return [Scores(a, plain[i] if plain is not None else None, ready.head) for i, a in enumerate(adapter)]

    def classifier(self, names: Names, plain: bool = False) -> Classifier:
        """The method (or plain CLIP) with a class list; the least recently used lists are forgotten.

        Raises:
            UserError: a name is too long for the text encoder.
        """
        key = names, plain
        if (ready := self._ready.get(key)) is not None:
            return ready
        made = Classifier(self.plain if plain else self.method, names)
        size = sum(value.nbytes for value in made.text.values() if isinstance(value, Tensor))
        # Always: who asked looks for it here in a moment.
        self._ready.put(key, made, size, may_go=lambda old: old[0] != self.pinned, always=True)
        return made
