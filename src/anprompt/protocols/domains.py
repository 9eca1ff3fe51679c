"""Domains: train on one kind of pictures, test on other kinds of the same classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from anprompt.data.names import class_key
from anprompt.data.types import Dataset
from anprompt.errors import UserError, choices
from anprompt.protocols.cross_dataset import SOURCE, by_target, with_targets
from anprompt.protocols.lab import Lab, Part
from anprompt.protocols.parts import finish, trained
from anprompt.protocols.spec import Observer, RunSpec, silent
from anprompt.results import Record


def domains(spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent) -> Record:
    """Train on all classes of the source, test there and on other kinds of pictures of these classes.

    The other kinds are data sets of their own (`spec.targets`: ImageNet's variants), each tested among the
    classes it has; or, without targets, the domains of the data set itself that training does not see (the
    embedded sets' styles). All their classes were trained on, so all are tested with the trained head.

    Args:
        state: folder that an interrupted run goes on from.

    Raises:
        UserError: there is no other kind, or a target has a class that the source lacks.
    """
    dataset = lab.dataset(spec)
    targets = {name: lab.dataset(spec, name) for name in spec.targets}
    for data in targets.values():
        same_classes(dataset, data)
    if targets:
        parts = {SOURCE: Part(spec.dataset, "all", dataset)}
        parts |= {name: Part(name, "all", data) for name, data in targets.items()}
    else:
        parts = own_domains(spec, dataset)
    run = trained(spec, lab, "all", state, observe)
    return with_targets(finish(spec, lab, run, parts, by_target, state, observe), run, targets)


def own_domains(spec: RunSpec, dataset: Dataset) -> dict[str, Part]:
    """The test pictures of the domains that training sees, and of every other domain apart.

    Raises:
        UserError: training sees all the domains there are.
    """
    seen = {item.domain for item in dataset.train}
    unseen = list(dict.fromkeys(item.domain for item in dataset.test if item.domain not in seen))
    if not unseen:
        raise UserError(
            f"{dataset.name} has no domain that training does not see; give data sets of the same classes "
            "with --targets."
        )
    kinds: dict[str, set[str]] = {SOURCE: seen} | {name: {name} for name in unseen}
    return {
        name: Part(
            spec.dataset, f"domain {name}",
            dataclasses.replace(dataset, test=tuple(item for item in dataset.test if item.domain in kind)),
        )
        for name, kind in kinds.items()
    }  # fmt: skip


def same_classes(source: Dataset, target: Dataset) -> None:
    """Raise a `UserError` unless the source has all classes of the target, by name."""
    known = {class_key(name) for name in source.classnames}
    for name in target.classnames:
        if class_key(name) not in known:
            raise choices(f"class of {target.name} (the source {source.name} lacks it):", name, source.classnames)
