"""What a run is: a protocol turns a specification into a run record.

A protocol is a function `(spec, lab, state, observe) -> record` in `PROTOCOLS`; the sweep, the records
and the tables know nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable

from anprompt.protocols.base_to_new import base_to_new
from anprompt.protocols.lab import Lab
from anprompt.protocols.spec import Event, Observer, Pairs, RunSpec, silent
from anprompt.results import Record

Protocol = Callable[..., Record]
PROTOCOLS: dict[str, Protocol] = {"base-to-new": base_to_new}

__all__ = ["PROTOCOLS", "Event", "Lab", "Observer", "Pairs", "Protocol", "RunSpec", "base_to_new", "silent"]
