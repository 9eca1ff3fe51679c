"""Cross data set: train on all classes of one data set, test on it and on others as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.protocols.lab import Lab, Part
from anprompt.protocols.parts import Trained, finish, trained
from anprompt.protocols.spec import Observer, RunSpec, silent
from anprompt.results import Record, dataset_hash

SOURCE = "source"


def cross_dataset(
    spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent
) -> Record:
    """Train on all classes of the source; test there with the trained head, and on every target with the
    unseen head, whatever its class names: it is other data. Each data set is read with its own template.

    Args:
        state: folder that an interrupted run goes on from.

    Raises:
        UserError: there are no targets, or the source is one of them.
    """
    if not spec.targets:
        raise UserError(f"cross-dataset from {spec.dataset} needs targets; give data sets with --targets.")
    if spec.dataset in spec.targets:
        raise UserError(f"{spec.dataset} is the source; leave it out of the targets.")
    targets = {name: lab.dataset(spec, name) for name in spec.targets}
    run = trained(spec, lab, "all", state, observe)
    parts = {SOURCE: Part(spec.dataset, "all", run.dataset)}
    parts |= {name: Part(name, "all", data, "unseen") for name, data in targets.items()}
    record = finish(spec, lab, run, parts, by_target, state, observe)
    return with_targets(record, run, targets)


def by_target(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The source's entry apart from those of the targets."""
    return {
        SOURCE: entries[SOURCE],
        "targets": {name: entry for name, entry in entries.items() if name != SOURCE},
    }


def with_targets(record: Record, run: Trained, targets: Mapping[str, Dataset]) -> Record:
    """The record, saying which data the targets are."""
    record["data"]["classes"] = {
        "all": len(run.dataset.classnames),
        **{name: len(data.classnames) for name, data in targets.items()},
    }
    record["data"]["targets"] = {
        name: {"name": data.name, "hash": dataset_hash(data), "template": data.template}
        for name, data in targets.items()
    }
    return record
