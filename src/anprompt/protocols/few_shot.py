"""Few shots: train on some pictures of every class, test on all classes."""

from __future__ import annotations

from pathlib import Path

from anprompt.protocols.lab import Lab, Part
from anprompt.protocols.parts import finish, trained
from anprompt.protocols.spec import Observer, RunSpec, silent
from anprompt.results import Record


def few_shot(spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent) -> Record:
    """Train on `spec.shots` pictures of every class, test among all of them with the trained head.

    Args:
        state: folder that an interrupted run goes on from.
    """
    run = trained(spec, lab, "all", state, observe)
    record = finish(spec, lab, run, {"all": Part(spec.dataset, "all", run.dataset)}, dict, state, observe)
    record["data"]["classes"] = {"all": len(run.dataset.classnames)}
    return record
