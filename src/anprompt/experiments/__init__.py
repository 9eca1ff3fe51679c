"""Runs of protocols: what one is, how it is measured, its record, sweeps of many.

>>> from anprompt.experiments import RunSpec
>>> RunSpec("embedded:sky", "zeroshot", protocol="few-shot", shots=4).recipe
'few-shot'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from anprompt.experiments.context import ExperimentContext
    from anprompt.experiments.protocols import PROTOCOLS, Part, Protocol
    from anprompt.experiments.spec import Event, Observer, Pairs, RunSpec, silent
    from anprompt.experiments.steps import run_protocol

__all__ = [
    "PROTOCOLS", "Event", "ExperimentContext", "Observer", "Pairs", "Part", "Protocol", "RunSpec", "run_protocol", "silent",
]  # fmt: skip

# Found on first use: records and tables are read without torch.
_PLACES = {
    "ExperimentContext": "context", "PROTOCOLS": "protocols", "Part": "protocols", "Protocol": "protocols", "Event": "spec",
    "Observer": "spec", "Pairs": "spec", "RunSpec": "spec", "silent": "spec", "run_protocol": "steps",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from anprompt.experiments.context import ExperimentContext

        return renamed_names(__name__, name, {"Lab": ExperimentContext})
    if name not in _PLACES:
        raise AttributeError(f"module 'anprompt.experiments' has no attribute {name!r}")
    return getattr(importlib.import_module(f"anprompt.experiments.{_PLACES[name]}"), name)
