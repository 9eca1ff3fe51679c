"""Statistics of runs as pure functions: spreads, paired comparisons, ranks, changed answers.

Accuracies are in percent and higher is better. Where something is drawn (bootstrap), the seed is an argument.
"""

from __future__ import annotations

import functools
import math
import operator
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts load when first used: tables that test nothing do not wait for them

from anprompt.errors import UserError

TIE_DECIMALS = 4  # accuracies come from 32-bit means: what differs by less than this is the same
DRAWS = 10_000
MIN_CELLS = 3
MIN_CLUSTERS = 5  # fewer data sets are too few to resample
EXACT = 13  # differences whose signs are all tried: 2 ** 13

Cell = tuple[str, Hashable]  # (data set, seed or whatever else tells runs on a data set apart)
Interval = tuple[float, float]


# --- one method -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spread:
    """Mean over seeds with its spread.

    Attributes:
        std: sample standard deviation; None for a single value.
        half: half the width of the 95 % confidence interval of the mean (Student's t); None likewise.
    """

    mean: float
    std: float | None
    half: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value per seed."""
        listed = list(values)
        if not listed:
            raise ValueError("no values to summarise")
        mean = statistics.fmean(listed)
        if len(listed) == 1:
            return cls(mean, None, None, 1)
        std = statistics.stdev(listed)
        half = _t975(len(listed) - 1) * std / math.sqrt(len(listed))
        return cls(mean, std, half, len(listed))

    def text(self, decimals: int = 1) -> str:
        """`71.3 ± 0.8`: mean and standard deviation."""
        spread = f" ± {self.std:.{decimals}f}" if self.std is not None else ""
        return f"{self.mean:.{decimals}f}{spread}"


@functools.cache
def _t975(freedom: int) -> float:
    """Upper 2.5 % point of Student's t; tables ask for the same few again and again."""
    return float(scipy.stats.t.ppf(0.975, freedom))


def relative_drop(clean: float, noisy: float) -> float:
    """What noise takes away, in percent of the clean accuracy; 0 where there was nothing to take."""
    return 100 * (clean - noisy) / clean if clean else 0.0


# --- two methods over runs ------------------------------------------------------------------------
@dataclass(frozen=True)
class Paired:
    """First minus second over the cells that both have.

    Attributes:
        n, clusters: cells, and data sets they are on.
        mean: mean difference over the cells.
        by_cell: 95 % bootstrap percentile interval, cells resampled: about these data sets; None for fewer
            than `MIN_CELLS`, of which resampling could tell nothing.
        by_dataset: the same with whole data sets resampled: about data sets like these. Runs on one data
            set resemble each other, so this one is the more careful; None for fewer than `MIN_CLUSTERS`.
        p: two-sided Wilcoxon signed-rank test of one mean difference per data set, ties left out; None
            for fewer than two data sets. Cells of one data set are not independent, so they are not
            what is tested.
        wins, ties, losses: cells where the first is ahead, level, behind.
    """

    n: int
    clusters: int
    mean: float
    by_cell: Interval | None
    by_dataset: Interval | None
    p: float | None
    wins: int
    ties: int
    losses: int

    def score(self) -> str:
        """`20 / 1 / 12`: wins, ties, losses."""
        return f"{self.wins} / {self.ties} / {self.losses}"


def compare(first: Mapping[Cell, float], second: Mapping[Cell, float], *, draws: int = DRAWS, seed: int = 0) -> Paired:
    """Compare two methods on the cells both have.

    Raises:
        UserError: they have no cell in common.
    """
    common = sorted(first.keys() & second.keys(), key=lambda cell: (cell[0], str(cell[1])))
    if not common:
        raise UserError("Nothing to compare: the two methods have no data set and seed in common.")
    gaps = np.round([first[cell] - second[cell] for cell in common], TIE_DECIMALS)
    names = list(dict.fromkeys(cell[0] for cell in common))
    cluster = np.array([names.index(cell[0]) for cell in common])
    sums, sizes = np.bincount(cluster, gaps), np.bincount(cluster)
    rng = np.random.default_rng(seed)
    by_cell = _interval(gaps, np.ones(len(gaps)), draws, rng) if len(gaps) >= MIN_CELLS else None
    return Paired(
        n=len(common), clusters=len(names), mean=float(gaps.mean()), by_cell=by_cell,
        by_dataset=_interval(sums, sizes, draws, rng) if len(names) >= MIN_CLUSTERS else None,
        p=signed_rank(np.round(sums / sizes, TIE_DECIMALS)) if len(names) > 1 else None,
        wins=int((gaps > 0).sum()), ties=int((gaps == 0).sum()), losses=int((gaps < 0).sum()),
    )  # fmt: skip


def _interval(sums: np.ndarray, sizes: np.ndarray, draws: int, rng: np.random.Generator) -> Interval:
    """Percentile interval of the mean over resampled units, each a sum [k] over a number of cells [k]."""
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def signed_rank(differences: Sequence[float] | np.ndarray) -> float:
    """p of the two-sided Wilcoxon signed-rank test; zeros are left out, and nothing but zeros gives 1.

    Exact up to `EXACT` differences, ties or none: over all signs at once, where scipy goes one by one on ties.
    """
    kept = np.asarray([d for d in differences if d])
    if not 2 <= len(kept) <= EXACT:
        return float(scipy.stats.wilcoxon(kept).pvalue) if len(kept) else 1.0
    ranks = scipy.stats.rankdata(np.abs(kept))
    found = scipy.stats.permutation_test(
        (np.sign(kept) * ranks,), np.sum, permutation_type="samples", n_resamples=2**EXACT, vectorized=True
    )
    return float(found.pvalue)


# --- two methods over pictures --------------------------------------------------------------------
@dataclass(frozen=True)
class McNemar:
    """Pictures that one of two methods alone gets right, and the exact two-sided p."""

    only_first: int
    only_second: int
    pictures: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test on the same pictures: which of them each method gets right.

    Raises:
        UserError: not the same number of pictures.
    """
    if len(first) != len(second):
        raise UserError(f"Can't compare picture by picture: {len(first)} pictures and {len(second)}.")
    only_first = sum(a and not b for a, b in zip(first, second))
    only_second = sum(b and not a for a, b in zip(first, second))
    return pooled([McNemar(only_first, only_second, len(first), 1.0)])


def pooled(parts: Iterable[McNemar]) -> McNemar:
    """One test over different pictures, e.g. those of several data sets."""
    listed = list(parts)
    only_first, only_second = sum(m.only_first for m in listed), sum(m.only_second for m in listed)
    apart = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, apart, 0.5).pvalue) if apart else 1.0
    return McNemar(only_first, only_second, sum(m.pictures for m in listed), p)


def mcnemar_entries(first: Mapping[str, Any], second: Mapping[str, Any]) -> McNemar:
    """`mcnemar` of two `results.metrics_entry` of the same test pictures.

    Raises:
        UserError: other pictures, or an entry that lacks the true labels (as early records do).
    """
    same_pictures(first, second)
    return mcnemar(right(first), right(second))


def right(entry: Mapping[str, Any]) -> list[bool]:
    """Per picture whether the prediction is the true label.

    Raises:
        UserError: the entry has no labels.
    """
    if "labels" not in entry or "predicted" not in entry:
        raise UserError("A record keeps no true labels per picture; run it again to compare picture by picture.")
    return [a == b for a, b in zip(entry["predicted"].split(), entry["labels"].split(), strict=True)]


def same_pictures(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse entries of different pictures.

    Raises:
        UserError: the hashes of the test items differ.
    """
    if first.get("items_hash") != second.get("items_hash"):
        raise UserError(
            "Can't compare picture by picture: the records are of different test pictures "
            f"({str(first.get('items_hash'))[:8]} and {str(second.get('items_hash'))[:8]})."
        )


def flip_rate(clean: Mapping[str, Any], noisy: Mapping[str, Any]) -> float:
    """Share of pictures, in percent, whose predicted class is another one under noise, right or wrong.

    Raises:
        UserError: the entries are of different pictures.
    """
    same_pictures(clean, noisy)
    before, after = clean["predicted"].split(), noisy["predicted"].split()
    if len(before) != len(after):
        raise UserError(f"Can't count changed answers: {len(before)} pictures and {len(after)}.")
    return 100 * sum(map(operator.ne, before, after)) / max(len(before), 1)


# --- many methods ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ranks:
    """Average rank per method, 1 for the best, over the data sets that all methods have.

    Attributes:
        p: Friedman test that all rank alike; None for fewer than 3 methods or 2 data sets.
    """

    ranks: dict[str, float]
    datasets: int
    p: float | None


def average_ranks(scores: Mapping[str, Mapping[str, float]]) -> Ranks:
    """Rank methods on each data set (ties share the mean of their ranks) and average.

    Args:
        scores: method -> data set -> accuracy.

    Raises:
        UserError: no data set has all methods.
    """
    methods = list(scores)
    shared = sorted(set.intersection(*(set(found) for found in scores.values()))) if methods else []
    if not shared:
        raise UserError("No ranks: there is no data set on which all methods have run.")
    values = np.round([[scores[m][d] for d in shared] for m in methods], TIE_DECIMALS)  # [methods, data sets]
    ranks = scipy.stats.rankdata(-values, axis=0).mean(axis=1)
    p = None
    if len(methods) >= 3 and len(shared) >= 2:
        level = bool((values == values[0]).all())  # the statistic is 0/0 there
        p = 1.0 if level else float(scipy.stats.friedmanchisquare(*values).pvalue)
    return Ranks(dict(zip(methods, map(float, ranks))), len(shared), p)


def harmonic_mean(base: float, new: float) -> float:
    """`2 base new / (base + new)`, 0 where both are 0: the field's H.

    >>> round(harmonic_mean(89.35, 81.25), 2)
    85.11
    """
    return 2 * base * new / (base + new) if base + new else 0.0
