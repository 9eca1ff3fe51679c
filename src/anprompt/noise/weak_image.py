"""Weak noise for training views: ANPrompt's "subtle image noise", as a part of the training recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anprompt.errors import UserError, choices
from anprompt.noise.image import IMAGE_NOISE, SEVERITIES, corrupt

# One family of each of three groups; the twelve others of ImageNet-C stay unseen.
WEAK_FAMILIES = ("gaussian_noise", "defocus_blur", "contrast")


@dataclass(frozen=True)
class WeakImageNoise:
    """Disturbs a share of the views, each with a random one of some families in a random severity.

    Attributes:
        share: of the views that are disturbed, 0..1.
        families: names in `IMAGE_NOISE`.
        severity: the largest, 1 to 5.
    """

    share: float
    families: tuple[str, ...]
    severity: int

    def __call__(self, view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A view uint8 [H, W, 3], disturbed or as it is."""
        if rng.random() >= self.share:
            return view
        family = self.families[int(rng.integers(len(self.families)))]
        return corrupt(view, family, int(rng.integers(1, self.severity + 1)), rng=rng)


def weak_image_noise(share: float, families: Sequence[str] = (), severity: int = 3) -> WeakImageNoise | None:
    """The noise that a recipe asks for; None where its share is 0.

    Args:
        share: of the views that are disturbed, 0..1.
        families: names in `IMAGE_NOISE`; `WEAK_FAMILIES` if empty.
        severity: the largest, 1 to 5.

    Raises:
        UserError: a value is out of range, or a family does not exist.
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f"image_noise must lie in 0..1, not {share}.")
    if severity not in SEVERITIES[1:]:
        raise choices("image_noise_severity", severity, SEVERITIES[1:])
    for family in families:
        if family not in IMAGE_NOISE:
            raise choices("corruption", family, IMAGE_NOISE)
    return WeakImageNoise(share, tuple(families) or WEAK_FAMILIES, severity) if share else None
