"""Runs of protocols: specification, context, measurement (the protocols are `anprompt.experiments.protocols`)."""

from __future__ import annotations

from anprompt.experiments.protocols import PROTOCOLS, Part, Protocol
from anprompt.protocols.lab import Lab
from anprompt.protocols.parts import run_protocol
from anprompt.protocols.spec import Event, Observer, Pairs, RunSpec, silent

__all__ = [
    "PROTOCOLS", "Event", "Lab", "Observer", "Pairs", "Part", "Protocol", "RunSpec", "run_protocol", "silent",
]  # fmt: skip
