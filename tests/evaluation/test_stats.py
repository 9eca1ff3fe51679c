"""Statistics against figures worked out by hand, other implementations, and what must always hold."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon
from sklearn.metrics import accuracy_score, recall_score

from anprompt.errors import UserError
from anprompt.evaluation import statistics as stats
from anprompt.evaluation.evaluate import calibration_error, metrics

TENTHS = st.integers(0, 1000).map(lambda value: value / 10)


def over(*values: float, dataset: str = "") -> dict[tuple[str, int], float]:
    """Values on data sets 0, 1, ..., or on one data set with seeds 0, 1, ..."""
    return {(dataset or f"{index:03d}", index if dataset else 1): value for index, value in enumerate(values)}


# --- spread ---------------------------------------------------------------------------------------
def test_spread_by_hand() -> None:
    spread = stats.Spread.of([70.0, 72.0, 77.0])
    assert spread.mean == pytest.approx(73)
    assert spread.std == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert spread.half == pytest.approx(4.302653 * (13 / 3) ** 0.5, rel=1e-6)  # t(0.975, 2) = 4.302653
    assert spread.text() == "73.0 ± 3.6" and spread.text(2) == "73.00 ± 3.61"
    alone = stats.Spread.of([70.0])
    assert (alone.std, alone.half, alone.text()) == (None, None, "70.0")


@settings(max_examples=50, deadline=None)
@given(st.lists(TENTHS, min_size=2, max_size=20))
def test_the_mean_lies_between_the_values(values: list[float]) -> None:
    spread = stats.Spread.of(values)
    assert min(values) - 1e-9 <= spread.mean <= max(values) + 1e-9
    assert spread.half is not None and spread.std is not None and spread.half >= 0
    if len(values) >= 7:  # t(0.975, 6) / sqrt(7) < 1
        assert spread.half <= spread.std
    assert stats.Spread.of(reversed(values)).std == pytest.approx(spread.std, abs=1e-9)


def test_relative_drop() -> None:
    assert stats.relative_drop(80, 60) == 25
    assert stats.relative_drop(50, 60) == -20
    assert stats.relative_drop(0, 0) == 0


# --- paired ---------------------------------------------------------------------------------------
def test_paired_by_hand() -> None:
    first, second = over(51, 62, 73, 84, 95, 66), over(50, 60, 70, 80, 90, 60)
    found = stats.compare(first, second)
    assert found.mean == pytest.approx(3.5) and (found.wins, found.ties, found.losses) == (6, 0, 0)
    assert found.p == pytest.approx(2 / 2**6)  # all six signs alike, exact
    assert (found.n, found.clusters, found.score()) == (6, 6, "6 / 0 / 0")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=8))
def test_signed_rank_is_scipys_with_and_without_ties(differences: list[int]) -> None:
    kept = [difference for difference in differences if difference]
    wanted = wilcoxon(kept).pvalue if kept else 1.0
    assert stats.signed_rank(differences) == pytest.approx(wanted, abs=1e-12)


def test_only_cells_of_both_are_compared() -> None:
    first, second = over(51, 99, dataset="a"), {**over(50, dataset="a"), **over(1, 2, dataset="b")}
    found = stats.compare(first, second)
    assert (found.n, found.mean, found.by_cell, found.by_dataset, found.p) == (1, 1, None, None, None)
    with pytest.raises(UserError, match="Nothing to compare"):
        stats.compare(over(1, dataset="a"), over(1, dataset="b"))


def test_level_methods_are_level() -> None:
    cells = over(70.1, 80.2, 90.3, 10, 20)
    noisy = {cell: value + 6e-6 for cell, value in cells.items()}  # what 32-bit means differ by
    found = stats.compare(cells, noisy)
    assert (found.mean, found.by_cell, found.by_dataset, found.p, found.ties) == (0, (0, 0), (0, 0), 1, 5)


def test_runs_on_one_data_set_are_not_independent() -> None:
    """With seeds that only repeat each other, resampling runs is three times too sure of itself (in variance);
    resampling data sets is not: 1.96 standard errors of the 40 means."""
    rng = np.random.default_rng(3)
    gaps = rng.normal(size=40)
    first = {(f"{d:02d}", seed): float(gap) for d, gap in enumerate(gaps) for seed in range(3)}
    found = stats.compare(first, dict.fromkeys(first, 0.0))
    assert found.by_dataset is not None
    width = found.by_dataset[1] - found.by_dataset[0]
    assert width == pytest.approx(2 * 1.96 * gaps.std() / math.sqrt(40), rel=0.06)
    assert found.by_cell[1] - found.by_cell[0] == pytest.approx(width / math.sqrt(3), rel=0.06)


def test_uneven_data_sets_weigh_by_their_runs() -> None:
    first = {("a", seed): 3.0 for seed in range(3)} | {(name, 0): 0.0 for name in "bcdef"}
    found = stats.compare(first, dict.fromkeys(first, 0.0))
    assert found.mean == pytest.approx(9 / 8)
    assert found.by_dataset is not None and found.by_dataset[0] == 0 and found.by_dataset[1] > 9 / 8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TENTHS, TENTHS), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_paired_properties(pairs: list[tuple[float, float]], random) -> None:
    first, second = (over(*column) for column in zip(*pairs))
    found = stats.compare(first, second, draws=1000)
    gaps = [a - b for a, b in pairs]
    assert (found.by_cell is None) == (len(pairs) < 3)
    if found.by_cell:
        assert min(gaps) - 1e-4 <= found.by_cell[0] <= found.mean + 1e-4
        assert found.mean - 1e-4 <= found.by_cell[1] <= max(gaps) + 1e-4
    assert found.wins + found.ties + found.losses == len(pairs)
    turned = stats.compare(second, first, draws=1000)
    assert turned.mean == pytest.approx(-found.mean) and (turned.wins, turned.losses) == (found.losses, found.wins)
    assert turned.p == (None if found.p is None else pytest.approx(found.p))
    mixed = list(first.items())
    random.shuffle(mixed)
    assert stats.compare(dict(mixed), second, draws=1000) == found


# --- pictures -------------------------------------------------------------------------------------
def entry(predicted: str, labels: str | None = None, items: str = "same") -> dict[str, str]:
    return {"predicted": predicted, "items_hash": items} | ({"labels": labels} if labels else {})


def test_mcnemar_by_hand() -> None:
    first = [True] * 10 + [False] * 2 + [True] * 5 + [False] * 3
    second = [False] * 10 + [True] * 2 + [True] * 5 + [False] * 3
    found = stats.mcnemar(first, second)
    assert (found.only_first, found.only_second, found.pictures) == (10, 2, 20)
    assert found.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # two-sided binomial of 2 in 12
    assert stats.mcnemar(second, first).p == found.p
    assert stats.mcnemar(first, first).p == 1
    both = stats.pooled([found, found])
    assert (both.only_first, both.pictures) == (20, 40) and both.p < found.p
    with pytest.raises(UserError, match="20 pictures and 1"):
        stats.mcnemar(first, [True])


def test_mcnemar_of_records_needs_the_same_pictures_and_their_labels() -> None:
    found = stats.mcnemar_entries(entry("0 1 2 2", "0 1 2 0"), entry("0 1 0 0", "0 1 2 0"))
    assert (found.only_first, found.only_second) == (1, 1)
    with pytest.raises(UserError, match="different test pictures"):
        stats.mcnemar_entries(entry("0", "0"), entry("0", "0", "other"))
    with pytest.raises(UserError, match="no true labels"):
        stats.mcnemar_entries(entry("0"), entry("0", "0"))


def test_flip_rate_counts_changed_answers_right_or_wrong() -> None:
    assert stats.flip_rate(entry("0 1 2 3"), entry("0 1 3 2")) == 50
    assert stats.flip_rate(entry("0 1"), entry("0 1")) == 0
    with pytest.raises(UserError, match="different test pictures"):
        stats.flip_rate(entry("0"), entry("0", items="other"))
    with pytest.raises(UserError, match="1 pictures and 2"):
        stats.flip_rate(entry("0"), entry("0 1"))


# --- ranks ----------------------------------------------------------------------------------------
def test_ranks_by_hand() -> None:
    scores = {name: {d: value for d in "abcd"} for name, value in (("x", 3.0), ("y", 2.0), ("z", 1.0))}
    found = stats.average_ranks(scores)
    assert found.ranks == {"x": 1, "y": 2, "z": 3} and found.datasets == 4
    # chi2 = 12 / (4 * 3 * 4) * (4^2 + 8^2 + 12^2) - 3 * 4 * 4 = 8, and p = exp(-8 / 2) at 2 degrees
    assert found.p == pytest.approx(math.exp(-4))


def test_ties_share_their_ranks_and_gaps_are_left_out() -> None:
    scores = {"x": {"a": 5.0, "b": 1.0, "only": 9.0}, "y": {"a": 5.0 + 1e-6, "b": 2.0}}
    found = stats.average_ranks(scores)
    assert found.ranks == {"x": (1.5 + 2) / 2, "y": (1.5 + 1) / 2} and found.datasets == 2
    assert found.p is None  # two methods
    level = {name: dict.fromkeys("abc", 7.0) for name in "xyz"}
    assert stats.average_ranks(level).p == 1 and set(stats.average_ranks(level).ranks.values()) == {2}
    with pytest.raises(UserError, match="no data set"):
        stats.average_ranks({"x": {"a": 1.0}, "y": {"b": 1.0}})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(TENTHS, min_size=4, max_size=4), min_size=2, max_size=6))
def test_ranks_always_add_up(rows: list[list[float]]) -> None:
    found = stats.average_ranks({str(i): dict(zip("abcd", row)) for i, row in enumerate(rows)})
    count = len(rows)
    assert sum(found.ranks.values()) == pytest.approx(count * (count + 1) / 2)
    assert found.p is None or 0 <= found.p <= 1


# --- accuracy and calibration, against others -----------------------------------------------------
def test_accuracies_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 7, generator=generator), torch.randint(7, (500,), generator=generator)
    names = [f"c{i}" for i in range(7)]
    found = metrics(logits, labels, SimpleNamespace(classnames=names, head="trained"))  # type: ignore[arg-type]
    assert found.accuracy == pytest.approx(accuracy_score(labels, found.predictions), abs=1e-6)
    recalls = recall_score(labels, found.predictions, average=None)
    assert list(found.per_class.values()) == pytest.approx(list(recalls), abs=1e-6)
    assert found.confidences.numpy() == pytest.approx(torch.softmax(logits, 1).amax(1).numpy())


def by_definition(confidences: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, eq. 3, bin by bin: ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidences > (m - 1) / bins) & (confidences <= m / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return total


def test_calibration_error_by_hand() -> None:
    # every bin as sure as it is right: 3 of 4 at 0.75, 1 of 2 at 0.5, and all at 1
    sure = torch.tensor([0.75] * 4 + [0.5] * 2 + [1.0] * 3)
    right = torch.tensor([1, 1, 1, 0, 1, 0, 1, 1, 1], dtype=torch.bool)
    assert calibration_error(sure, right) == pytest.approx(0, abs=1e-12)
    # two bins: 0.9 with 1 of 2 right (gap 0.4), 0.6 with all of 2 right (gap 0.4), weights one half
    sure, right = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, False, True, True])
    assert calibration_error(sure, right) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error(torch.ones(5), torch.zeros(5, dtype=torch.bool)) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 999), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_calibration_error_is_that_of_the_definition(pairs: list[tuple[int, bool]], bins: int) -> None:
    # 1009 is prime: no confidence lies on an edge, where rounding decides
    sure = np.array([value / 1009 for value, _ in pairs])
    right = np.array([hit for _, hit in pairs])
    found = calibration_error(torch.from_numpy(sure), torch.from_numpy(right), bins)
    assert found == pytest.approx(by_definition(sure, right, bins), abs=1e-9) and 0 <= found <= 1
