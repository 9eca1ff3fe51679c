"""Under noise: curves over the severities, the tables, every condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from anprompt.evaluation.conditions import Condition
from anprompt.report import charts, markup, plots
from anprompt.report.grid import HALVES, Grid, families
from anprompt.report.overview import FEW, dots, rows_table
from anprompt.report.tables import LONG, tables
from anprompt.tables import CLEAN, Sheet, condition_rows, conditions, in_order, nice
from anprompt.tables.noise import seen_in_training

STRENGTH = {"image": "severity", "text": "strength"}
KINDS = {"image": "noise on pictures", "text": "noise on class names"}


def noise(grid: Grid, styles: dict[str, int], sheets: Sequence[Sheet]) -> str:
    """The section of base and new classes; empty where no record has a condition.

    Args:
        sheets: the tables on noise, the summary first.
    """
    names = conditions(grid.records)
    if not names:
        return ""
    curves = "".join(_kind(grid, kind, names, styles) for kind in KINDS)
    rows = [dataclasses.replace(row, dataset=title(row.condition)) for row in condition_rows(grid.records)]
    whole = rows_table(rows, "condition")
    return (
        told(names, seen_in_training(grid.records), len(in_order(grid.records, "dataset")) > 1)
        + (_dots(grid, styles) if len(grid.methods) <= FEW else "")
        + curves
        + tables(sheets, styles)
        + markup.fold("Every condition", whole, opened=len(rows) <= LONG)
    )


def told(names: Sequence[str], met: Collection[str], several: bool) -> str:
    """What was disturbed, and which of it no method met in training."""
    over = ", on average over the data sets" if several else ""
    text = f"The same test pictures, disturbed{over}."
    unseen = "; ".join(_short([Condition.parse(name) for name in names if name not in met]))
    seen = "; ".join(_short([Condition.parse(name) for name in names if name in met]))
    if unseen:
        text += f" Unseen in training: {unseen}."
    if seen:
        text += f" Of a kind that a method was trained with, so not unseen: {seen}."
    return f"<p>{markup.escape(text)}</p>"


def _short(found: Sequence[Condition]) -> list[str]:
    """One by one; where there are many, each family once."""
    if len(found) <= 8:
        return [c.title for c in found]
    return list(dict.fromkeys(c.family.replace("_", " ") + (" in names" if c.kind == "text" else "") for c in found))


def title(condition: str) -> str:
    """A condition as a person reads it."""
    return condition if condition == CLEAN else Condition.parse(condition).title


# --- curves ---------------------------------------------------------------------------------------
def _kind(grid: Grid, kind: str, names: Sequence[str], styles: dict[str, int]) -> str:
    """Curves over the strengths: the mean of all families, then every family."""
    found = families(names, kind)
    if not any(len(row) > 1 for row in found.values()):
        return ""  # one strength does not make a curve
    shared = set.intersection(*({c.strength for c in row} for row in found.values()))
    wanted = {s: [str(c) for row in found.values() for c in row if c.strength == s] for s in sorted(shared)}
    heading = f"<h3>{KINDS[kind].capitalize()} by {STRENGTH[kind]}</h3>"
    mean = _panels(grid, wanted, kind, f"mean of {len(found)} families" if len(found) > 1 else "", styles)
    each = "".join(
        _panels(grid, {c.strength: [str(c)] for c in row}, kind, family.replace("_", " "), styles, grid_of=False)
        for family, row in found.items()
    )
    key = charts.legend([nice(m) for m in grid.methods], {nice(m): styles[m] for m in grid.methods})
    folded = f'{key}<div class="grid">{each}</div>' if each and len(found) > 1 else ""
    return heading + key + mean + markup.fold(f"Every family of {KINDS[kind]}", folded)


def _panels(
    grid: Grid, wanted: Mapping[int, Sequence[str]], kind: str, name: str, styles: dict[str, int],
    *, grid_of: bool = True,
) -> str:  # fmt: skip
    """A chart for base and one for new classes, on one scale."""
    by_half = {half: _curves(grid, half, wanted, styles) for half in HALVES}
    drawn = [curve for curves in by_half.values() for curve in curves if curve.y]
    if not drawn:
        return ""
    x_ticks = [(0.0, "clean"), *((float(s), str(s)) for s in wanted)]
    html = "".join(
        plots.chart(
            f"{half} classes" + (f", {name}" if name else ""), curves, x_ticks, STRENGTH[kind], plots.around(drawn)
        )
        for half, curves in by_half.items()
    )
    return f'<div class="grid">{html}</div>' if grid_of else html


def _curves(grid: Grid, half: str, wanted: Mapping[int, Sequence[str]], styles: dict[str, int]) -> list[plots.Curve]:
    curves = []
    for method in grid.methods:
        points = [(0.0, grid.mean(method, half, [CLEAN]))]
        points += [(float(s), grid.mean(method, half, names)) for s, names in wanted.items()]
        known = [(x, y) for x, y in points if y is not None]
        if len(known) > 1:
            curves.append(plots.Curve(nice(method), styles[method], *map(list, zip(*known))))
    return curves


def _dots(grid: Grid, styles: dict[str, int]) -> str:
    """For few methods and conditions: a line per condition and half."""
    names = [CLEAN, *conditions(grid.records)]
    if len(names) > LONG:
        return ""
    groups = []
    for half in HALVES:
        lines = []
        for name in names:
            row = [grid.spread(method, half, name) for method in grid.methods]
            if all(row):
                lines.append((title(name), [spread.mean for spread in row if spread]))
        groups.append((f"{half} classes", lines))
    return dots(groups, grid.methods, styles)
