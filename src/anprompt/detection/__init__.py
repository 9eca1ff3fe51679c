"""Anomaly detection from a few normal images: methods, features, maps, figures, thresholds (docs/anomaly.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anprompt.errors import choices

if TYPE_CHECKING:
    from anprompt.detection.base import DetectionMethod

__all__ = ["DETECTION_METHODS", "detection_method"]

# Where each method lives; found on first use, so that help and reports do not wait for torch.
DETECTION_METHODS: dict[str, str] = {
    "clip": "anprompt.detection.clip:TwoSentences",
    "winclip": "anprompt.detection.winclip:WinClip",
    "anomalyclip": "anprompt.detection.anomalyclip:AnomalyClip",
    "promptad": "anprompt.detection.promptad:PromptAd",
    "patchcore": "anprompt.detection.patchcore:PatchCore",
    "apt": "anprompt.detection.apt:Apt",
}


def detection_method(name: str) -> type[DetectionMethod]:
    """The class of a detection method.

    Raises:
        UserError: there is none; the nearest name is in the line.
    """
    import importlib

    if name not in DETECTION_METHODS:
        raise choices("detection method", name, DETECTION_METHODS)
    module, _, attribute = DETECTION_METHODS[name].partition(":")
    found: type[DetectionMethod] = getattr(importlib.import_module(module), attribute)
    return found
