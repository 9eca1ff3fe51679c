"""What a run is: a protocol turns a specification into a run record.

A protocol is a function `(spec, lab, state, observe) -> record` in `PROTOCOLS`; the sweep, the records
and the tables know nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable

from anprompt.protocols.base_to_new import base_to_new
from anprompt.protocols.cross_dataset import cross_dataset
from anprompt.protocols.domains import domains
from anprompt.protocols.few_shot import few_shot
from anprompt.protocols.lab import Lab, Part
from anprompt.protocols.noise import noise
from anprompt.protocols.spec import Event, Observer, Pairs, RunSpec, silent
from anprompt.results import Record

Protocol = Callable[..., Record]
PROTOCOLS: dict[str, Protocol] = {
    "base-to-new": base_to_new,
    "few-shot": few_shot,
    "cross-dataset": cross_dataset,
    "domains": domains,
    "noise": noise,
}

__all__ = [
    "PROTOCOLS",
    "Event",
    "Lab",
    "Observer",
    "Pairs",
    "Part",
    "Protocol",
    "RunSpec",
    "base_to_new",
    "cross_dataset",
    "domains",
    "few_shot",
    "noise",
    "silent",
]
