"""APGD, FAB, Square and AutoAttack (Croce and Hein, arXiv 2003.01690) by the library of their authors, pyautoattack.

The library assumes ten classes or more and a global random state; here both are seen to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anprompt.attacks.threat import MOST_TARGETS, QUERIES_A_STEP, ThreatModel, check_library

_NORMS = {"linf": "Linf", "l2": "L2"}

log = logging.getLogger("anprompt.attacks.library")
log.propagate = False  # its warnings name pages of its own; zero gradients are counted and told by us
log.addHandler(logging.NullHandler())


def stages(threat: ThreatModel, count: int) -> tuple[str, ...]:
    """The library's attacks that an attack consists of, for so many classes.

    AutoAttack's standard version is apgd-ce, apgd-t, fab-t and square. apgd-t needs four classes: with three its
    place takes apgd-dlr, with two nothing does.
    """
    if threat.attack != "autoattack":
        return (threat.attack,)
    second = ("apgd-t",) if count >= 4 else ("apgd-dlr",) if count == 3 else ()
    return ("apgd-ce", *second, "fab-t", "square")


def run_stage(
    stage: str, model: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor, threat: ThreatModel, count: int
) -> Tensor:
    """One of the library's attacks on images that are answered rightly.

    Args:
        stage: "apgd-ce", "apgd-dlr", "apgd-t", "fab-t" or "square".
        pixels: [B, 3, H, W] in [0, 1].
        count: C, number of classes.

    Returns:
        What it made of the images, [B, 3, H, W].

    Raises:
        UserError: the extra is not installed.
    """
    check_library()
    devices = [pixels.device] if pixels.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():  # it asks for gradients where it needs them
        return _built(stage, model, threat, count, pixels.device).perturb(pixels, labels).detach()


def _built(stage: str, model: Callable[[Tensor], Tensor], threat: ThreatModel, count: int, device: torch.device) -> Any:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    common: dict[str, Any] = {
        "eps": threat.eps, "norm": _NORMS[threat.norm], "seed": threat.seed, "n_restarts": threat.restarts,
        "verbose": False, "device": device,
    }  # fmt: skip
    targets = min(MOST_TARGETS, count - 1)
    if stage in ("apgd-ce", "apgd-dlr"):
        return APGDAttack(model, n_iter=threat.steps, loss=stage.removeprefix("apgd-"), logger=log, **common)
    if stage == "apgd-t":
        return APGDAttack_targeted(model, n_iter=threat.steps, n_target_classes=targets, logger=log, **common)
    if stage == "fab-t":
        return FABAttack_PT(model, n_iter=threat.steps, targeted=True, n_target_classes=targets, **common)
    queries = QUERIES_A_STEP * threat.steps
    return SquareAttack(model, p_init=0.8, n_queries=queries, resc_schedule=False, **common)
