"""One method against every other one: over runs, over pictures, and by rank."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from anprompt.evaluation.statistics import Cell as Place
from anprompt.evaluation.statistics import McNemar, average_ranks, compare, mcnemar_entries, pooled
from anprompt.experiments.records import Record
from anprompt.tables.runs import Batch, Grid, Values, note
from anprompt.tables.sheet import LOW, NEITHER, Cell, Column, Line, Sheet, columns

PAIRED = ("difference", "95 % (runs)", "95 % (data sets)", "p", "won / level / lost", "runs")
PAIRED_NOTE = (
    "Differences of accuracy in percentage points over runs of the same data set and seed; a method with "
    "nothing to train is compared with every seed. Intervals are bootstrap percentiles, resampling runs or "
    "whole data sets; p is the Wilcoxon signed-rank test over one mean difference per data set, not "
    "corrected for the number of comparisons."
)
PICTURES_NOTE = (
    "Pictures that only one of the two gets right, over all data sets that both have, at the first common "
    "seed of each; p is the exact McNemar test, not corrected for the number of comparisons."
)

Entries = Callable[[Record], Mapping[str, Mapping[str, Any]]]


def places(values: Values, method: str, untrained: bool, other: Values, like: str) -> dict[Place, float]:
    """A method's values by (data set, seed); without seeds of its own it takes those of `like`."""
    found: dict[Place, float] = {}
    for dataset, seeds in values.get(method, {}).items():
        for seed in other.get(like, {}).get(dataset, {}) if untrained else seeds:
            found[dataset, seed] = next(iter(seeds.values())) if untrained else seeds[seed]
    return found


def paired_sheet(batch: Batch, grid: Grid, reference: str, measures: Mapping[str, Values]) -> Sheet | None:
    """The reference minus every other method, by measure; None where there is nothing to compare."""
    lines = []
    for measure, values in measures.items():
        for other in grid.methods:
            both = [
                places(values, name, name in grid.untrained, values, like)
                for name, like in ((reference, other), (other, reference))
            ]
            if other == reference or not both[0].keys() & both[1].keys():
                continue
            paired = compare(*both)
            figures = (
                Cell.difference(paired), Cell.interval(paired.by_cell), Cell.interval(paired.by_dataset),
                Cell.p_value(paired.p), Cell(paired.score()), Cell.number(paired.n, "{:.0f}"),
            )  # fmt: skip
            lines.append(Line(measure, f"{reference} − {other}", figures))
    if not lines:
        return None
    title = batch.title(f"{reference} against the others, run by run")
    return Sheet(title, note(batch.records, PAIRED_NOTE), ("measure", "pair"), columns(PAIRED, NEITHER), tuple(lines))


def picture_sheet(batch: Batch, grid: Grid, reference: str, entries: Entries) -> Sheet | None:
    """McNemar tests of the reference against every other method; None where records lack labels."""
    lines = []
    parts = list(dict.fromkeys(name for record in batch.records for name in entries(record)))
    for part in parts:
        for other in grid.methods:
            tests = [] if other == reference else _tests(grid, reference, other, part, entries)
            if tests:
                both = pooled(tests)
                figures = (
                    Cell.number(both.only_first, "{:.0f}"), Cell.number(both.only_second, "{:.0f}"),
                    Cell.number(both.pictures, "{:.0f}"), Cell.p_value(both.p),
                )  # fmt: skip
                lines.append(Line(part, other, figures))
    if not lines:
        return None
    heads = (f"only {reference} right", "only the other right", "pictures", "p")
    return Sheet(
        batch.title(f"{reference} against the others, picture by picture"), note(batch.records, PICTURES_NOTE),
        ("classes", "other"), columns(heads, NEITHER), tuple(lines),
    )  # fmt: skip


def _tests(grid: Grid, reference: str, other: str, part: str, entries: Entries) -> list[McNemar]:
    """One test per data set that both have with labels."""
    found = []
    for dataset in grid.datasets:
        runs = [grid.runs.get(name, {}).get(dataset, {}) for name in (reference, other)]
        pair = _first_common(runs[0], runs[1], grid.untrained & {reference, other})
        both = [entries(record).get(part, {}) for record in pair]
        if both and all("labels" in entry and "predicted" in entry for entry in both):
            found.append(mcnemar_entries(both[0], both[1]))
    return found


def _first_common(first: Mapping[int, Record], second: Mapping[int, Record], untrained: Any) -> list[Record]:
    """The two records of the first seed that both have; one without seeds goes with any."""
    if not first or not second:
        return []
    if untrained:
        return [first[min(first)], second[min(second)]]
    common = first.keys() & second.keys()
    return [first[min(common)], second[min(common)]] if common else []


def rank_sheet(batch: Batch, grid: Grid, measures: Mapping[str, Values]) -> Sheet | None:
    """Average ranks; None with fewer than two methods or no data set that all have."""
    found = {}
    for measure, values in measures.items():
        means = {m: {d: statistics.fmean(s.values()) for d, s in sets.items()} for m, sets in values.items()}
        if len(means) >= 2 and set.intersection(*map(set, means.values())):
            found[measure] = average_ranks(means)
    if not found:
        return None
    lines = [
        Line("", method, tuple(Cell.number(r.ranks.get(method), "{:.2f}") for r in found.values()))
        for method in grid.methods
    ]
    tests = ", ".join(f"{name} p = {r.p:.2g}" for name, r in found.items() if r.p is not None)
    count = next(iter(found.values())).datasets
    where = "the one data set" if count == 1 else f"each of the {count} data sets"
    told = (
        f"1 is the best; means over the seeds that a method has, ranked on {where} that all methods have, ties shared."
    )
    friedman = f" Friedman test that all rank alike: {tests}." if tests else ""
    heads = tuple(Column(name, LOW) for name in found)
    return Sheet(batch.title("average rank"), note(batch.records, told + friedman), ("", "method"), heads, tuple(lines))
