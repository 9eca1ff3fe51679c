"""Base to new: train on half of the classes, test on both halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from anprompt.data.splits import subset_classes
from anprompt.data.types import Dataset
from anprompt.evaluation.statistics import harmonic_mean
from anprompt.experiments.protocols.base import Part, Protocol

if TYPE_CHECKING:
    from anprompt.experiments.spec import RunSpec

HALVES = ("base", "new")


class BaseToNew(Protocol):
    """Train on the first half of the classes, test on that half and on the other, which no one trained on.

    The draw is made on the whole data set before it is halved, as the field does. Base images are told apart among
    base classes with the trained head, new images among new classes with the unseen head.
    """

    name = "base-to-new"
    title = "Base to new"
    doc = "train on half of the classes, test on both halves"
    figures: ClassVar[tuple[str, ...]] = ("base", "new", "H")
    classes = "base"
    layout = "halves"

    def parts(self, spec: RunSpec, dataset: Dataset, targets: Mapping[str, Dataset]) -> dict[str, Part]:
        return {half: Part(spec.dataset, half, subset_classes(dataset, half)) for half in HALVES}

    def metrics(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Both halves' entries and H."""
        return {**entries, "H": harmonic_mean(*(entries[half]["accuracy"] for half in HALVES))}

    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        metrics = record["metrics"]
        return {**{half: metrics[half]["accuracy"] for half in HALVES}, "H": metrics["H"]}
