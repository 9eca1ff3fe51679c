"""Few shots: train on some images of every class, test on all classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anprompt.data.types import Dataset
from anprompt.experiments.protocols.base import Part, Protocol

if TYPE_CHECKING:
    from anprompt.experiments.spec import RunSpec


class FewShot(Protocol):
    """Train on `spec.shots` images of every class, test among all of them with the trained head."""

    name = "few-shot"
    title = "Few shots"
    doc = "train on 1 to 16 images of every class, test on all classes"
    figures = ("accuracy",)
    shots = (1, 2, 4, 8, 16)
    compares_shots = True
    layout = "shots"

    def parts(self, spec: RunSpec, dataset: Dataset, targets: Mapping[str, Dataset]) -> dict[str, Part]:
        return {"all": Part(spec.dataset, "all", dataset)}

    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        return {"accuracy": record["metrics"]["all"]["accuracy"]}
