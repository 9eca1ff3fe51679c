"""A threshold at a rate of false alarms, from normal images that nothing was learned from, and what it can promise.

The scores of n held-out normal images and of new ones come in any order alike. So with the threshold at the j-th highest of
them, a new normal image scores above it with probability j / (n + 1) on average, and the rate that a factory will see is
Beta(j, n + 1 - j) distributed, whatever the scores' distribution is. A rate below 1 / (n + 1) can't be promised by n images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anprompt.errors import UserError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Threshold:
    """Scores above `value` are anomalies.

    Attributes:
        value: in units of the detector's score.
        asked: the rate of false alarms that was asked for.
        expected: the rate that is expected.
        low, high: where the rate lies with 95 % probability.
        images: held-out normal images it comes from.
    """

    value: float
    asked: float
    expected: float
    low: float
    high: float
    images: int

    @property
    def promised(self) -> bool:
        """Whether as few false alarms as were asked for can be expected with this number of images."""
        return self.expected <= self.asked + 1e-12

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: the threshold with its uncertainty, and what can't be promised."""
        told = [
            f"threshold {self.value:.4f}: {self.expected:.1%} false alarms expected, {self.low:.1%} to {self.high:.1%} with "
            f"95 % confidence, from {self.images} normal images"
        ]
        if not self.promised:
            told.append(
                f"with {self.images} normal images a rate under {1 / (self.images + 1):.1%} can't be promised; "
                f"{needed(self.asked)} are needed for {self.asked:.1%}"
            )
        return told


def needed(rate: float) -> int:
    """Held-out normal images that a rate needs at least.

    >>> needed(0.05), needed(0.02)
    (19, 49)
    """
    return int(np.ceil(1 / rate - 1 - 1e-9))


def choose_threshold(scores: Sequence[float] | np.ndarray, rate: float) -> Threshold:
    """The lowest threshold that is expected to give at most this rate of false alarms.

    Where the images are too few for it, the highest of their scores, and `promised` is False.

    Args:
        scores: of normal images that nothing was learned from, [n].
        rate: of false alarms, between 0 and 1.

    Raises:
        UserError: no scores, or no such rate.
    """
    import scipy.stats

    if not 0 < rate < 1:
        raise UserError(f"A rate of false alarms lies between 0 and 1, like 0.02, not {rate:g}.")
    found = np.sort(np.asarray(scores, np.float64))[::-1]
    if not len(found):
        raise UserError("A threshold needs held-out normal images, and there is none.")
    count = len(found)
    place = min(count, max(1, int(np.floor(rate * (count + 1) + 1e-9))))
    share = scipy.stats.beta(place, count + 1 - place)
    tail = (1 - CONFIDENCE) / 2
    return Threshold(
        float(found[place - 1]), rate, place / (count + 1), float(share.ppf(tail)), float(share.ppf(1 - tail)), count
    )
