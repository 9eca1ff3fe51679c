"""Noise: a method trained as for base to new, tested under every kind of noise there is."""

from __future__ import annotations

from pathlib import Path

from anprompt.protocols.base_to_new import base_to_new
from anprompt.protocols.lab import Lab
from anprompt.protocols.spec import Observer, RunSpec, silent
from anprompt.results import Record


def noise(spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent) -> Record:
    """Base to new under `spec.conditions`, which is all conditions unless some were chosen.

    The training is that of base to new to the last detail; where the lab keeps adapters, one that was
    trained there is measured as it is.

    Args:
        state: folder that an interrupted run goes on from.
    """
    return base_to_new(spec, lab, state=state, observe=observe)
