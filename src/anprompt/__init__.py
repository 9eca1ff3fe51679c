"""Prompt tuning of CLIP-like models that stays right under noise and on unseen classes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anprompt import _moved
from anprompt._version import __version__
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.backbones import load_backbone
    from anprompt.classifier import PromptClassifier, load
    from anprompt.data.sources import open_dataset
    from anprompt.detection.detector import AnomalyDetector
    from anprompt.methods import create_method, list_methods, list_presets

_moved.install()

__all__ = [
    "AnomalyDetector",
    "PromptClassifier",
    "UserError",
    "__version__",
    "create_method",
    "list_methods",
    "list_presets",
    "load",
    "load_backbone",
    "open_dataset",
]

# Found on first use, so that `import anprompt` and `anprompt --help` do not wait for torch.
_LAZY = {
    "AnomalyDetector": "anprompt.detection.detector",
    "PromptClassifier": "anprompt.classifier",
    "create_method": "anprompt.methods",
    "list_methods": "anprompt.methods",
    "list_presets": "anprompt.methods",
    "load": "anprompt.classifier",
    "load_backbone": "anprompt.backbones",
    "open_dataset": "anprompt.data.sources",
}


def __getattr__(name: str) -> Any:
    if name == "build_method":  # its name before this version
        return importlib.import_module("anprompt.methods").build_method
    if name not in _LAZY:
        raise AttributeError(f"module 'anprompt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
