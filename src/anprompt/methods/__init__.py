"""The methods and the presets that run them.

A *preset* is a TOML file: a method's name, its settings, the training recipe, and what a protocol
changes of it. Names given by users are preset names; most presets are called as their method.
Other packages add methods through the entry-point group `anprompt.methods` (name -> Method class).
"""

from __future__ import annotations

from typing import Any

from anprompt.methods.anprompt import ANPrompt
from anprompt.methods.base import Head, Method, MethodConfig
from anprompt.methods.classifier import Classifier
from anprompt.methods.cocoop import CoCoOp
from anprompt.methods.coop import CoOp
from anprompt.methods.create import check_template, create_method
from anprompt.methods.maple import MaPLe
from anprompt.methods.mmrl import MMRL
from anprompt.methods.mmrlpp import MMRLpp
from anprompt.methods.presets import Preset, get_preset, list_presets, parse_preset
from anprompt.methods.promptsrc import PromptSRC
from anprompt.methods.registry import get_method, list_methods, registered
from anprompt.methods.zeroshot import ZeroShot
from anprompt.utils.renamed import renamed_names

__all__ = [
    "MMRL",
    "ANPrompt",
    "Classifier",
    "CoCoOp",
    "CoOp",
    "Head",
    "MMRLpp",
    "MaPLe",
    "Method",
    "MethodConfig",
    "Preset",
    "PromptSRC",
    "ZeroShot",
    "check_template",
    "create_method",
    "get_method",
    "get_preset",
    "list_methods",
    "list_presets",
    "parse_preset",
]

_RENAMED = {
    "build_method": create_method,
    "method_class": get_method,
    "methods": registered,
    "preset": get_preset,
    "preset_names": list_presets,
}


def __getattr__(name: str) -> Any:
    return renamed_names(__name__, name, _RENAMED)
