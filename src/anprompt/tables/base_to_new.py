"""Sheets of the base-to-new protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anprompt.evaluation.statistics import Spread, harmonic_mean
from anprompt.experiments.records import Record
from anprompt.tables.compare import paired_sheet, picture_sheet, rank_sheet
from anprompt.tables.cost import cost_sheet
from anprompt.tables.rows import MEAN, MEAN_H, label, nice
from anprompt.tables.runs import Batch, Grid, Values, average, average_spread, by_dataset, note, spread_note
from anprompt.tables.sheet import NEITHER, Cell, Column, Line, Sheet, columns

HALVES = ("base", "new")
H_NOTE = (
    "H is the harmonic mean of base and new; over data sets both are given: of the average accuracies (as "
    "most papers print), and the average of each data set's H."
)


def entries(record: Record) -> Mapping[str, Mapping[str, Any]]:
    """The clean entries by half."""
    return {half: record["metrics"][half] for half in HALVES}


def measures(grid: Grid) -> dict[str, Values]:
    """Base and new accuracy, and H of each run."""
    return {
        "base": grid.values(lambda r: r["metrics"]["base"]["accuracy"]),
        "new": grid.values(lambda r: r["metrics"]["new"]["accuracy"]),
        "H": grid.values(lambda r: harmonic_mean(*(r["metrics"][half]["accuracy"] for half in HALVES))),
    }


def base_to_new_sheets(batch: Batch, reference: str) -> list[Sheet]:
    """Accuracies, ranks, comparisons with the reference, cost."""
    grid = Grid.of(batch.records, reference)
    values = measures(grid)
    lines = [*by_dataset(grid, values.values(), _line), *_averages(grid, values)]
    told = ["Accuracy in percent.", spread_note(batch.records), H_NOTE, *_borrowed(batch.records)]
    heads = (*columns(("base", "new", "H")), Column("seeds", NEITHER))
    main = Sheet(batch.title(), note(batch.records, *told), ("data", "method"), heads, tuple(lines))
    others = [
        rank_sheet(batch, grid, values),
        paired_sheet(batch, grid, reference, values),
        picture_sheet(batch, grid, reference, entries),
        cost_sheet(batch, grid),
    ]
    return [main, *(sheet for sheet in others if sheet)]


def _borrowed(records: Iterable[Record]) -> list[str]:
    """Which methods learned nothing that could say something of new classes."""
    names = list(dict.fromkeys(label(r) for r in records if r.get("method", {}).get("new_classes") == "zero-shot"))
    if not names:
        return []
    return [
        f"New classes of {', '.join(map(nice, names))}: zero-shot CLIP's, as what was learned says nothing of them."
    ]


def _line(group: str, method: str, spreads: list[Spread | None]) -> list[Line]:
    """Nothing where there is no run."""
    first = spreads[0]
    if first is None:
        return []
    return [Line(group, method, (*map(Cell.of, spreads), Cell.number(first.n, "{:.0f}")))]


def _averages(grid: Grid, values: Mapping[str, Values]) -> list[Line]:
    """Both averages of every method that has all data sets, where there are several."""
    if len(grid.datasets) < 2:
        return []
    of_averages, of_h = [], []
    for method in grid.methods:
        base, new, h = (average_spread(found, method, grid.datasets) for found in values.values())
        means = [average(values[half], method, grid.datasets) for half in HALVES]
        joint = Spread.of(harmonic_mean(means[0][s], means[1][s]) for s in means[0]) if means[0] else None
        of_averages += _line(MEAN, method, [base, new, joint])
        of_h += _line(MEAN_H, method, [base, new, h])
    return of_averages + of_h
