"""AUPRO against a case by hand and an oracle that tries every threshold; the other figures are scikit-learn's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anprompt.detection.metrics import aupro, figures, pro_curve, ranked


def oracle(masks: list[np.ndarray], maps: list[np.ndarray], limit: float) -> float:
    """The definition: at every score as a threshold, regions one by one."""
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for one in maps for v in one.ravel()}, reverse=True):
        shares, wrong, normal = [], 0, 0
        for mask, found in zip(masks, maps):
            flagged = found >= threshold
            named, count = scipy.ndimage.label(mask, np.ones((3, 3)))
            shares += [flagged[named == region].mean() for region in range(1, count + 1)]
            wrong, normal = wrong + int((flagged & ~mask).sum()), normal + int((~mask).sum())
        points.append((wrong / normal if normal else 0.0, float(np.mean(shares))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * ((end - x0) / (x1 - x0)) if x1 > x0 else y1
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def test_by_hand() -> None:
    """Two regions of 1 and 3 pixels, 4 normal ones. The small one first, then a normal pixel, then the rest."""
    mask = np.array([[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]], bool)
    found = np.array([[9, 8, 0, 0], [0, 0, 7, 7], [0, 0, 0, 7]], float)
    x, y = pro_curve([mask], [found])
    np.testing.assert_allclose(x, [0, 0, 1 / 8, 1 / 8, 1])
    np.testing.assert_allclose(y, [0, 0.5, 0.5, 1, 1])
    assert aupro([mask], [found]) == pytest.approx((0.125 * 0.5 + 0.175 * 1) / 0.3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 6), st.sampled_from([0.05, 0.3, 1.0]))
def test_as_the_oracle(seed: int, count: int, levels: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    masks = [rng.random((7, 5)) < 0.3 for _ in range(count)]
    masks[0][3, 3], masks[0][0, 0] = True, False
    maps = [rng.integers(0, levels, (7, 5)).astype(float) + mask for mask in masks]
    assert aupro(masks, maps, limit) == pytest.approx(oracle(masks, maps, limit), abs=1e-9)


def test_the_others_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = rng.normal(size=60) + labels
    masks = [np.zeros((8, 8), bool) if not label else rng.random((8, 8)) < 0.2 for label in labels]
    maps = [rng.normal(size=(8, 8)) + mask for mask in masks]
    found = figures(labels, scores, masks, maps)
    assert found.image_auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.image_ap == pytest.approx(average_precision_score(labels, scores))
    assert found.image_f1max == pytest.approx(max(f1_score(labels, scores >= t) for t in scores))
    truth, flat = (
        np.concatenate([m.ravel() for m in masks]),
        np.concatenate([m.ravel() for m in maps]).astype(np.float32),
    )
    assert found.pixel_auroc == pytest.approx(roc_auc_score(truth, flat))
    assert found.pixel_ap == pytest.approx(average_precision_score(truth, flat))


def test_what_is_missing_is_left_out() -> None:
    maps = [np.zeros((4, 4))] * 2
    bare = figures([0, 1], [0.1, 0.9], [np.zeros((4, 4), bool), None], maps).to_dict()
    assert set(bare) == {"image_auroc", "image_ap", "image_f1max"} and bare["image_auroc"] == 1.0
    assert figures([0, 0], [0.1, 0.9]).to_dict() == {}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(1, 8))
def test_ties_are_counted_as_scikit_learn_does(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    labels[:2] = True, False
    scores = rng.integers(0, levels, count).astype(float)
    auroc, precision, f1 = ranked(labels, scores)
    assert auroc == pytest.approx(roc_auc_score(labels, scores))
    assert precision == pytest.approx(average_precision_score(labels, scores))
    assert f1 == pytest.approx(max(f1_score(labels, scores >= t) for t in scores))
