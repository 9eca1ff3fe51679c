"""How well scores and maps tell anomalies: the field's figures.

Areas under ROC and precision-recall curves are scikit-learn's; AUPRO, which it lacks, is here: the mean over defects (connected
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
    return Figures(*image, *ranked(truth, found), aupro([m for m, _ in kept], [s for _, s in kept]))


def ranked(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """AUROC, average precision and the largest F1 over thresholds; NaN where one kind is missing."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    if labels.all() or not labels.any():
        return (float("nan"),) * 3
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores)), float(f1.max())


def pro_curve(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Share of normal pixels flagged, and mean share of a region found, at every threshold from the highest down.

    Each pixel has a weight on one of the two axes, so that one sort gives the whole curve.
    """
    import scipy.ndimage

    regions, weights = 0, []
    for mask in masks:
        named, count = scipy.ndimage.label(mask, np.ones((3, 3), int))
        sizes = np.bincount(named.ravel(), minlength=count + 1).astype(np.float64)
        weights.append(np.where(named > 0, 1 / sizes[named], 0.0).ravel())
        regions += count
    found = np.concatenate([np.asarray(one, np.float32).ravel() for one in maps])
    gain = np.concatenate(weights)
    order = np.argsort(-found, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(found[order])), len(order) - 1)  # equal scores are flagged together
    normal = gain[order] == 0
    flagged = np.cumsum(normal)[ends] / max(int(normal.sum()), 1)
    share = np.cumsum(gain[order])[ends] / max(regions, 1)
    return np.append(0.0, flagged), np.append(0.0, share)


def aupro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], limit: float = PRO_LIMIT) -> float:
    """Area under `pro_curve` up to `limit` of flagged normal pixels, divided by the limit; NaN without any region.

    >>> mask = np.zeros((4, 4), bool); mask[0, 0] = True
    >>> aupro([mask], [mask.astype(float)])
    1.0
    """
    if not any(mask.any() for mask in masks):
        return float("nan")
    x, y = pro_curve(masks, maps)
    inside = x <= limit
    if not inside.all():  # the point at the limit itself, on the line to the next one
        after = int(np.argmin(inside))
        share = (limit - x[after - 1]) / (x[after] - x[after - 1])
        x = np.append(x[:after], limit)
        y = np.append(y[:after], y[after - 1] + share * (y[after] - y[after - 1]))
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / limit)
