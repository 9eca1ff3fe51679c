"""Cross data set: train on all classes of one data set, test on it and on others as they are."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anprompt.data.classic.catalog import BENCHMARKS
from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.experiments.protocols.base import Part, Protocol
from anprompt.experiments.records import dataset_hash

if TYPE_CHECKING:
    from anprompt.experiments.spec import RunSpec

SOURCE = "source"
IMAGENET = "coop:imagenet"


class CrossDataset(Protocol):
    """Train on all classes of the source; test there with the trained head, and on every target with the unseen
    head, whatever its class names: it is other data. Each data set is read with its own template."""

    name = "cross-dataset"
    title = "Cross-dataset transfer"
    doc = "train on one data set, test on others"
    figures = (SOURCE, "targets")
    takes_targets = True
    layout = "targets"

    def targets(self, dataset: str) -> tuple[str, ...]:
        if dataset == IMAGENET:
            return tuple(f"coop:{name}" for name in BENCHMARKS if f"coop:{name}" != IMAGENET)
        if dataset.startswith("embedded:"):
            from anprompt.data.embedded import EMBEDDED_SETS  # reads its index only when asked for

            return tuple(f"embedded:{name}" for name in EMBEDDED_SETS if f"embedded:{name}" != dataset)
        raise UserError(f"cross-dataset from {dataset} needs targets; give data sets with --targets.")

    def parts(self, spec: RunSpec, dataset: Dataset, targets: Mapping[str, Dataset]) -> dict[str, Part]:
        if not targets:
            raise UserError(f"cross-dataset from {spec.dataset} needs targets; give data sets with --targets.")
        if spec.dataset in targets:
            raise UserError(f"{spec.dataset} is the source; leave it out of the targets.")
        parts = {SOURCE: Part(spec.dataset, "all", dataset)}
        return parts | {name: Part(name, "all", data, "unseen") for name, data in targets.items()}

    def metrics(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The source's entry apart from those of the targets."""
        return {SOURCE: entries[SOURCE], "targets": {name: entry for name, entry in entries.items() if name != SOURCE}}

    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        metrics = record["metrics"]
        means = [entry["accuracy"] for entry in metrics["targets"].values()]
        return {SOURCE: metrics[SOURCE]["accuracy"], "targets": statistics.fmean(means)}

    def data_facts(self, dataset: Dataset, targets: Mapping[str, Dataset], parts: Mapping[str, Part]) -> dict[str, Any]:
        """How many classes, and which data the targets are."""
        classes = {name: len(data.classnames) for name, data in targets.items()}
        described = {
            name: {"name": data.name, "hash": dataset_hash(data), "template": data.template}
            for name, data in targets.items()
        }
        return {"classes": {"all": len(dataset.classnames), **classes}, "targets": described}
