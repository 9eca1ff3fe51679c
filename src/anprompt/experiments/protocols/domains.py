"""Domains: train on one kind of images, test on other kinds of the same classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from anprompt.data.classic.catalog import IMAGENET_VARIANTS
from anprompt.data.names import class_key
from anprompt.data.types import Dataset
from anprompt.errors import UserError, choices
from anprompt.experiments.protocols.base import Part
from anprompt.experiments.protocols.cross_dataset import IMAGENET, SOURCE, CrossDataset

if TYPE_CHECKING:
    from anprompt.experiments.spec import RunSpec


class Domains(CrossDataset):
    """Train on all classes of the source, test there and on other kinds of images of these classes.

    The other kinds are data sets of their own (ImageNet's variants), each tested among the classes it has; or,
    without targets, the domains of the data set itself that training does not see (the embedded sets' styles). All
    their classes were trained on, so all are tested with the trained head.
    """

    name = "domains"
    title = "Domain generalisation"
    doc = "train on one kind of images, test on other kinds of the same classes"
    recipe = "cross-dataset"

    def targets(self, dataset: str) -> tuple[str, ...]:
        """ImageNet has its variants; other data sets have domains of their own."""
        return tuple(f"coop:{name}" for name in IMAGENET_VARIANTS) if dataset == IMAGENET else ()

    def parts(self, spec: RunSpec, dataset: Dataset, targets: Mapping[str, Dataset]) -> dict[str, Part]:
        for data in targets.values():
            _same_classes(dataset, data)
        if not targets:
            return _own_domains(spec, dataset)
        parts = {SOURCE: Part(spec.dataset, "all", dataset)}
        return parts | {name: Part(name, "all", data) for name, data in targets.items()}


def _own_domains(spec: RunSpec, dataset: Dataset) -> dict[str, Part]:
    """The test images of the domains that training sees, and of every other domain apart.

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


def _same_classes(source: Dataset, target: Dataset) -> None:
    """Raise a `UserError` unless the source has all classes of the target, by name."""
    known = {class_key(name) for name in source.classnames}
    for name in target.classnames:
        if class_key(name) not in known:
            raise choices(f"class of {target.name} (the source {source.name} lacks it):", name, source.classnames)
