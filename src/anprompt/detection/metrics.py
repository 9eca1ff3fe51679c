"""How well scores and maps tell anomalies: the field's figures.

AUROC, average precision and F1max are those of scikit-learn (the tests hold them equal), from one sort of the scores, since a
test has millions of pixels; AUPRO, which scikit-learn lacks, is the mean over defects (connected
regions of the masks) of the share that is found, against the share of normal pixels that is flagged, up to 0.3 of them
(Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

PRO_LIMIT = 0.3
EVALUATED_SIDE = 128  # pixels of a map's longer side where pixels are counted; larger maps are sampled


@dataclass(frozen=True)
class Figures:
    """The figures of a test, as shares 0..1; NaN where masks or one of the two kinds of images are missing."""

    image_auroc: float
    image_ap: float
    image_f1max: float
    pixel_auroc: float
    pixel_ap: float
    pixel_f1max: float
    aupro: float

    def to_dict(self) -> dict[str, float]:
        """By name, NaN left out, as JSON holds them."""
        return {name: float(value) for name, value in asdict(self).items() if np.isfinite(value)}


def figures(
    labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray,
    masks: Sequence[np.ndarray | None] = (), maps: Sequence[np.ndarray] = (),
) -> Figures:  # fmt: skip
    """All figures of a test.

    Args:
        labels: 1 for an anomalous image, [n].
        scores: higher for more anomalous, [n].
        masks: booleans [H, W] per image; None where an anomalous image has no mask, which leaves it out of the pixels.
        maps: scores [H, W] of the same sizes.
    """
    image = ranked(np.asarray(labels, bool), np.asarray(scores, np.float64))
    kept = [(mask, found) for mask, found in zip(masks, maps) if mask is not None]
    if not any(mask.any() for mask, _ in kept):
        return Figures(*image, *[float("nan")] * 4)
    truth = np.concatenate([mask.ravel() for mask, _ in kept])
    found = np.concatenate([np.asarray(one, np.float32).ravel() for _, one in kept])
    order, ends = _order(found)  # one sort of all pixels gives all of their figures
    pixels = _ranked(truth, order, ends) if not truth.all() else (float("nan"),) * 3
    return Figures(*image, *pixels, _area(*_pro([mask for mask, _ in kept], order, ends), PRO_LIMIT))


def ranked(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """AUROC, average precision and the largest F1 over thresholds; NaN where one kind is missing."""
    if labels.all() or not labels.any():
        return (float("nan"),) * 3
    return _ranked(labels, *_order(scores))


def _order(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the highest score down, and where a threshold can lie: equal scores are flagged together."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    return order, np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1)


def _ranked(labels: np.ndarray, order: np.ndarray, ends: np.ndarray) -> tuple[float, float, float]:
    right = np.cumsum(labels[order], dtype=np.float64)[ends]
    flagged = ends + 1.0
    wrong, positives = flagged - right, right[-1]
    recall, false_alarms = np.append(0, right / positives), np.append(0, wrong / wrong[-1])
    precision = right / flagged
    auroc = (np.diff(false_alarms) * (recall[1:] + recall[:-1]) / 2).sum()
    f1 = 2 * right / (flagged + positives)
    return float(auroc), float((np.diff(recall) * precision).sum()), float(f1.max())


def pro_curve(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Share of normal pixels flagged, and mean share of a region found, at every threshold from the highest down."""
    found = np.concatenate([np.asarray(one, np.float32).ravel() for one in maps])
    return _pro(masks, *_order(found))


def _pro(masks: Sequence[np.ndarray], order: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel has a weight on one of the two axes, so that one order gives the whole curve."""
    import scipy.ndimage

    regions, weights = 0, []
    for mask in masks:
        named, count = scipy.ndimage.label(mask, np.ones((3, 3), int))
        sizes = np.bincount(named.ravel(), minlength=count + 1).astype(np.float64)
        weights.append(np.where(named > 0, 1 / sizes[named], 0.0).ravel())
        regions += count
    gain = np.concatenate(weights)[order]
    normal = np.cumsum(gain == 0, dtype=np.float64)
    flagged = normal[ends] / max(normal[-1], 1)
    share = np.cumsum(gain)[ends] / max(regions, 1)
    return np.append(0.0, flagged), np.append(0.0, share)


def aupro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], limit: float = PRO_LIMIT) -> float:
    """Area under `pro_curve` up to `limit` of flagged normal pixels, divided by the limit; NaN without any region.

    >>> mask = np.zeros((4, 4), bool); mask[0, 0] = True
    >>> aupro([mask], [mask.astype(float)])
    1.0
    """
    if not any(mask.any() for mask in masks):
        return float("nan")
    return _area(*pro_curve(masks, maps), limit)


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area under a curve up to `limit`, divided by it."""
    inside = x <= limit
    if not inside.all():  # the point at the limit itself, on the line to the next one
        after = int(np.argmin(inside))
        share = (limit - x[after - 1]) / (x[after] - x[after - 1])
        x = np.append(x[:after], limit)
        y = np.append(y[:after], y[after - 1] + share * (y[after] - y[after - 1]))
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / limit)
