"""Base and new classes: the overview with its intervals, base against new, and all data sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from anprompt.errors import UserError
from anprompt.evaluation import statistics as stats
from anprompt.evaluation.statistics import Spread, harmonic_mean
from anprompt.report import charts, markup, plots
from anprompt.report.grid import Grid
from anprompt.report.markup import Cell, Line
from anprompt.report.tables import LONG, tables
from anprompt.tables import Row, Sheet, base_new_rows, in_order, nice, shown_name

FEW = 3  # methods that a line of dots can show
NORMAL = 1.959964  # the 97.5 % quantile
COLUMNS = {"base": "base", "new": "new", "h": "H"}


def result(grid: Grid, styles: dict[str, int], sheets: Sequence[Sheet]) -> str:
    """The section: overview, scatter, the change on every data set, and the tables in full."""
    rows = base_new_rows(grid.records)
    parts = [f'<div class="two"><div>{overview(grid, styles)}{_unfair(grid)}</div>']
    parts.append(f"<div>{_scatter(grid, styles)}</div></div>")
    if len(grid.methods) <= FEW:
        parts.append(_dots(grid, rows, styles))
    else:
        parts.append(markup.fold("Each method on every data set", _by_method(grid, styles)))
    if not sheets and len({row.dataset for row in rows}) > 1:  # records of noise alone have no such table
        parts.append(markup.fold("All figures", rows_table(rows), opened=len(rows) <= LONG))
    return "".join(parts) + tables(sheets, styles, opened=int(len(rows) <= LONG))


def overview(grid: Grid, styles: dict[str, int]) -> str:
    """A row a method: averages with their 95 % interval, the average of the H, the average rank."""
    if not grid.datasets:
        return markup.note("No data set has a run of every method, so there are no averages.")
    spreads = {m: [grid.spread(m, what) for what in COLUMNS] for m in grid.methods}
    methods = [m for m in grid.methods if all(spreads[m])]
    drawn = any(s and s.half is not None for row in spreads.values() for s in row)
    several = len(grid.datasets) > 1
    ranks = _ranks(grid)
    values: list[list[float | None]] = []
    cells: list[list[Cell]] = []
    for method in methods:
        row: list[float | None] = [s.mean for s in spreads[method] if s]
        halves = [s.half for s in spreads[method] if s] if drawn else over_pictures(grid, method)
        unders = ["" if half is None else f"± {half:.1f}" for half in halves]
        if several:
            row.append(_mean_of_h(grid, method))
        if ranks:
            row.append(ranks.ranks[method])
        values.append(row)
        cells.append(markup.figures(row, unders=[*unders, *[""] * (len(row) - 3)]))
    markup.mark_best(values, cells, low=[len(values[0]) - 1] if ranks and values else [])
    columns = ["method", "base", "new", "H"]
    columns += ["mean of H"] * several + ["rank"] * bool(ranks)
    lines = [Line(nice(m), row, styles[m]) for m, row in zip(methods, cells)]
    return markup.table("Averages by method", columns, lines) + markup.note(_told(grid, drawn, several, bool(ranks)))


def _told(grid: Grid, drawn: bool, several: bool, ranked: bool) -> str:
    text = "Accuracy in percent, the best of each column in bold. "
    if several:
        text += (
            f"Averages over {len(grid.datasets)} data sets; H is the harmonic mean of the averages, "
            "mean of H the average of each data set's own H. "
        )
    else:
        text += "H is the harmonic mean of base and new. "
    if drawn:
        text += "Below each figure half of the 95 % interval of the mean over seeds (Student's t). "
    elif any(over_pictures(grid, method)[0] is not None for method in grid.methods):
        text += (
            "There is one seed, so below each figure is half of the 95 % interval over test pictures alone "
            "(normal approximation): what another draw of training pictures would change is not in it. "
        )
    return text + ("Rank: average over data sets by H, 1 is the best." if ranked else "")


def over_pictures(grid: Grid, method: str) -> list[float | None]:
    """Half of the 95 % interval of base, new and H over test pictures; None where their number is unknown."""
    errors = []
    for half in ("base", "new"):
        variance = 0.0
        for dataset in grid.datasets:
            for record in list(grid.runs(dataset, method).values())[:1]:
                entry = record["metrics"][half]
                if not entry.get("pictures"):
                    return [None, None, None]
                share = entry["accuracy"] / 100
                variance += 1e4 * share * (1 - share) / entry["pictures"]
        errors.append(math.sqrt(variance) / len(grid.datasets))
    spreads = [grid.spread(method, half) for half in ("base", "new")]
    base, new = (spread.mean if spread else 0.0 for spread in spreads)
    total = (base + new) or 1.0
    slopes = 2 * (new / total) ** 2, 2 * (base / total) ** 2  # of H by base and by new
    return [NORMAL * e for e in (*errors, math.hypot(slopes[0] * errors[0], slopes[1] * errors[1]))]


def _mean_of_h(grid: Grid, method: str) -> float:
    seeds = grid.pairs(method)
    return statistics.fmean(
        harmonic_mean(*(grid.runs(dataset, method)[seed]["metrics"][half]["accuracy"] for half in ("base", "new")))
        for dataset in grid.datasets
        for seed in seeds
    )


def cell_mean(grid: Grid, dataset: str, method: str, what: str) -> float | None:
    """Mean over the seeds of a data set and method; None where there is no run."""
    runs = grid.runs(dataset, method).values()
    if not runs:
        return None
    pairs = [(r["metrics"]["base"]["accuracy"], r["metrics"]["new"]["accuracy"]) for r in runs]
    if what == "h":
        return statistics.fmean(harmonic_mean(*pair) for pair in pairs)
    return statistics.fmean(pair[("base", "new").index(what)] for pair in pairs)


def _ranks(grid: Grid) -> stats.Ranks | None:
    if len(grid.methods) < 3 or len(grid.datasets) < 2:
        return None
    scores = {
        m: {d: value for d in grid.datasets if (value := cell_mean(grid, d, m, "h")) is not None} for m in grid.methods
    }
    try:
        return stats.average_ranks(scores)
    except UserError:  # no data set has all methods
        return None


def _unfair(grid: Grid) -> str:
    left = [d for d in in_order(grid.records, "dataset") if d not in grid.datasets]
    if not left or not grid.datasets:
        return ""
    names = ", ".join(map(shown_name, left))
    return markup.note(f"Not in the averages, as not every method has run there: {names}.")


# --- charts ---------------------------------------------------------------------------------------
def _scatter(grid: Grid, styles: dict[str, int]) -> str:
    points = []
    for method in grid.methods:
        base, new = grid.spread(method, "base"), grid.spread(method, "new")
        if base and new:
            points.append(plots.Point(nice(method), styles[method], base.mean, new.mean, base.half, new.half))
    if len(points) < 2:
        return ""
    names = {nice(m): styles[m] for m in grid.methods}
    title = "Base against new" + (", averages" if len(grid.datasets) > 1 else "")
    return plots.scatter(title, points) + charts.legend([p.name for p in points], names)


def _by_method(grid: Grid, styles: dict[str, int]) -> str:
    """A small scatter per method, a point per data set, with a stroke from the first method's point."""
    if len(grid.datasets) < 2:
        return ""
    first, *others = grid.methods
    panels = ""
    for method in others:
        points = []
        for dataset in grid.datasets:
            found = [cell_mean(grid, dataset, m, half) for m in (first, method) for half in ("base", "new")]
            if None not in found:
                b0, n0, b1, n1 = (value or 0.0 for value in found)
                points.append(plots.Point(shown_name(dataset), styles[method], b1, n1, start=(b0, n0)))
        panels += plots.scatter(nice(method), points, r=4)
    text = f"A point per data set; the stroke comes from {nice(first)} on the same data set."
    return markup.note(text) + f'<div class="grid">{panels}</div>'


def _dots(grid: Grid, rows: Sequence[Row], styles: dict[str, int]) -> str:
    """For few methods: a line per data set and half."""
    groups = []
    for dataset in map(shown_name, in_order(grid.records, "dataset")):
        own = {row.method: row for row in rows if row.dataset == dataset}
        if set(own) == set(grid.methods):  # of a half-done sweep, what can't be compared stays in the table
            lines = [(half, [getattr(own[m], half).mean for m in grid.methods]) for half in ("base", "new")]
            groups.append((dataset, lines))
    return dots(groups, grid.methods, styles)


def dots(groups: charts.Groups, methods: Sequence[str], styles: dict[str, int]) -> str:
    """Legend, dots, and what the number at the right is."""
    drawn = charts.dumbbells(groups, methods, styles)
    if not drawn:
        return ""
    told = "The number at the right is the change from the first method to the last."
    return charts.legend(methods, styles) + drawn + markup.note(told if len(methods) > 1 else "")


# --- tables ---------------------------------------------------------------------------------------
def rows_table(rows: Sequence[Row], first: str = "data") -> str:
    """Rows grouped by data set (or whatever stands there), the best of each group in bold."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.dataset, []).append(row)
    body = "".join(f"<tbody>{_group(name, group)}</tbody>" for name, group in groups.items())
    heads = "".join(f'<th scope="col" class="n">{name}</th>' for name in COLUMNS.values())
    return markup.box(
        f"Table of accuracies by {first}",
        f'<table><thead><tr><th scope="col">{first}</th><th scope="col">method</th>{heads}</tr></thead>{body}</table>',
    )


def _group(name: str, group: Sequence[Row]) -> str:
    spreads: list[list[Spread]] = [[row.base, row.new, row.h] for row in group]
    values: list[list[float | None]] = [[s.mean for s in row] for row in spreads]
    cells = [[Cell(s.text(), "n") for s in row] for row in spreads]
    markup.mark_best(values, cells)
    lines = []
    for index, (row, line) in enumerate(zip(group, cells)):
        head = "" if index else f'<th class="long" scope="rowgroup" rowspan="{len(group)}">{markup.escape(name)}</th>'
        lines.append(f"<tr>{head}<td>{markup.escape(row.method)}</td>{''.join(c.html() for c in line)}</tr>")
    return "".join(lines)


# --- data sets against methods --------------------------------------------------------------------
STEPS = (0.5, 2.0, 5.0, 10.0)  # points of difference from which a colour is one deeper


def heat(grid: Grid) -> str:
    """Three tables, data sets by methods: what each gains over the first on H, base and new."""
    if len(grid.methods) < 2 or len(in_order(grid.records, "dataset")) < 2:
        return ""
    whole = Grid.all_sets(grid.records)
    first = grid.methods[0]
    text = f"Points of accuracy above or below {nice(first)}; blue is better, orange is worse. "
    folds = "".join(
        markup.fold(f"{name} against {nice(first)}", heat_table(whole, what), opened=what == "h")
        for what, name in (("h", "H"), ("new", "New classes"), ("base", "Base classes"))
    )
    return markup.note(text) + folds


def heat_table(grid: Grid, what: str) -> str:
    """Data sets by methods, the difference to the first method."""
    first, *others = grid.methods
    lines = []
    for dataset in grid.datasets:
        start = cell_mean(grid, dataset, first, what)
        cells = [Cell(markup.MISSING if start is None else f"{start:.1f}", "n")]
        cells += [difference(cell_mean(grid, dataset, m, what), start) for m in others]
        lines.append(Line(shown_name(dataset), cells))
    columns = ["data", *map(nice, grid.methods)]
    return markup.table(f"Differences by data set and method, {COLUMNS[what]}", columns, lines, kind="heat")


def difference(value: float | None, start: float | None) -> Cell:
    """A signed difference on its colour, with both values as a tooltip."""
    if value is None or start is None:
        return Cell(markup.MISSING, "n")
    gap = value - start
    depth = sum(abs(gap) >= step for step in STEPS)
    colour = f"{'u' if gap > 0 else 'd'}{depth}" if depth else ""
    return Cell(charts.signed(gap), f"n {colour}".strip(), title=f"{value:.1f} % against {start:.1f} %")
