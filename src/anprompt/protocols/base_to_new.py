"""Base to new: train on half of the classes, test on both halves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anprompt.data.splits import subset_classes
from anprompt.protocols.lab import Lab, Part
from anprompt.protocols.parts import finish, trained
from anprompt.protocols.spec import Observer, RunSpec, silent
from anprompt.results import Record
from anprompt.stats import harmonic_mean


def base_to_new(spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent) -> Record:
    """Train on the first half of the classes, test on that half and on the other, which no one trained on.

    The draw is made on the whole data set before it is halved, as the field does. Base pictures are told
    apart among base classes with the trained head, new pictures among new classes with the unseen head.

    Args:
        state: folder that an interrupted run goes on from.
    """
    run = trained(spec, lab, "base", state, observe)
    halves = {which: subset_classes(run.dataset, which) for which in ("base", "new")}
    parts = {which: Part(spec.dataset, which, half) for which, half in halves.items()}
    record = finish(spec, lab, run, parts, with_harmonic_mean, state, observe)
    record["data"]["classes"] = {which: len(half.classnames) for which, half in halves.items()}
    return record


def with_harmonic_mean(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Both halves' entries and H."""
    return {**entries, "H": harmonic_mean(entries["base"]["accuracy"], entries["new"]["accuracy"])}
