"""Attacks: images changed within stated bounds so that a model errs, and what accuracy is left.

`ThreatModel` says what an opponent may do and is recorded with every figure; `attack` runs it through what is
deployed; `checks` tells figures that can't be right. Only `threat` is free of torch.
"""

from __future__ import annotations

from anprompt.attacks.threat import ATTACKS, NORMS, ThreatModel

__all__ = ["ATTACKS", "NORMS", "ThreatModel"]
