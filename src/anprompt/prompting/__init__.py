"""The one engine that all methods use: splicing tokens, exact sharing, memory, precision, processes.

What was `anprompt.prompting` as one module is `anprompt.prompting.prompts`; its names go on working here for one
version.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(importlib.import_module("anprompt.prompting.prompts"), name)
