"""Noise: a method trained as for base to new, tested under every kind of noise there is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from anprompt.evaluation.conditions import all_conditions
from anprompt.evaluation.statistics import harmonic_mean
from anprompt.experiments.protocols.base_to_new import HALVES, BaseToNew


class Noise(BaseToNew):
    """Base to new under all conditions, unless some were chosen.

    The training is that of base to new to the last detail; where adapters are kept, one that was trained there is
    measured as it is.
    """

    name = "noise"
    title = "Under noise"
    doc = "base to new under noise on images, class names and templates"
    figures = ("base", "new", "H", "noisy H")
    recipe = "base-to-new"
    layout = "noise"

    def conditions(self, has_descriptions: bool) -> tuple[str, ...]:
        return all_conditions(has_descriptions)

    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        found = super().headline(record)
        noisy = list(record["metrics"].get("conditions", {}).values())
        if noisy:
            means = (statistics.fmean(c[half]["accuracy"] for c in noisy) for half in HALVES)
            found["noisy H"] = harmonic_mean(*means)
        return found
