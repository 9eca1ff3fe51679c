"""Whether images are enough to calibrate on: what to say where they are not, and how many would do.

The error of a fitted temperature comes from the curvature of the negative log-likelihood L (per image) in
log T at its minimum: with n images it is about 1 / sqrt(n L''). A threshold that is to accept a share a of all
images has an error of sqrt(a (1 - a) / n) in that share, and none of the images is left out by it below
1 / (1 - a) images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TEMPERATURE_ERROR = 0.25  # standard error of log T that is good enough: about a quarter of T
SHARE_ERROR = 0.05  # of the share that a threshold accepts
LEAST_IMAGES = 20  # below, neither curvature nor shares mean anything
ADVICE = 100  # where the images can't even tell how many would do
_STEP = 0.02  # of log T, for the second difference
_NEAR = 1.01  # a temperature this close to a bound is at it


def doubts(
    logits: Tensor, labels: Tensor, classnames: Sequence[str], *, temperature: float | None,
    bounds: tuple[float, float], accept: float | None,
) -> list[str]:  # fmt: skip
    """What speaks against a calibration, a line each; empty where nothing does.

    Args:
        logits: scaled logits [n, C] before the temperature.
        labels: true classes [n].
        temperature: as fitted; None where none was.
        bounds: between which it was looked for.
        accept: share of the images that a threshold was to accept; None where none was chosen.
    """
    lines = []
    if temperature is not None and (line := _temperature(logits, labels, classnames, temperature, bounds)):
        lines.append(line)
    if accept is not None and (line := _threshold(len(labels), accept)):
        lines.append(line)
    return lines


def _temperature(
    logits: Tensor, labels: Tensor, classnames: Sequence[str], temperature: float, bounds: tuple[float, float]
) -> str | None:
    count, right = len(labels), int((logits.argmax(dim=-1) == labels).sum())
    low, high = bounds
    reasons = []
    if temperature <= low * _NEAR or temperature >= high / _NEAR:
        reasons.append(f"it is at the bound {low if temperature <= 1 else high:g}")
    if right in (0, count):
        reasons.append(f"all answers are {'right' if right else 'wrong'}")
    if len(present := labels.unique().tolist()) == 1:
        reasons.append(f"all images are of the class {classnames[present[0]]!r}")
    needed = ADVICE if reasons else images_needed(logits, labels, temperature)
    if count >= needed and not reasons:
        return None
    if count < LEAST_IMAGES or not reasons:
        reasons.append("that is too few to tell")
    enough = f"about {max(needed, LEAST_IMAGES)} would do" if count < needed else "use images it gets wrong, too"
    return f"temperature {temperature:.3g} from {count} images: {', '.join(reasons)}; {enough}"


def images_needed(logits: Tensor, labels: Tensor, temperature: float) -> int:
    """Images at which a temperature's standard error is `TEMPERATURE_ERROR`, of images like these."""

    def loss(shift: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / (temperature * math.exp(shift)), labels))

    curvature = _second(loss)
    if curvature <= 1e-6:  # flat: no temperature is better than another
        return max(ADVICE, 2 * len(labels))
    return _tens(max(LEAST_IMAGES, 1 / (curvature * TEMPERATURE_ERROR**2)))


def _second(loss: Callable[[float], float]) -> float:
    """L'' at 0 by differences."""
    return (loss(_STEP) - 2 * loss(0.0) + loss(-_STEP)) / _STEP**2


def _threshold(count: int, accept: float) -> str | None:
    spread = accept * (1 - accept) / SHARE_ERROR**2
    needed = max(LEAST_IMAGES, spread, 1 / (1 - accept) if accept < 1 else 0)
    if count >= needed - 1e-9:
        return None
    return (
        f"threshold from {count} images: too few to tell which {100 * accept:g} % to accept; at least "
        f"{_tens(needed)} would do"
    )


def _tens(number: float) -> int:
    """Rounded up to tens; a false exactness would mislead."""
    return 10 * math.ceil(round(number, 6) / 10)
