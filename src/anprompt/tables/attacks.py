"""Sheets of the adversarial protocol: what is left of accuracy, by attack and size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from anprompt.attacks.threat import ThreatModel
from anprompt.evaluation.statistics import Spread
from anprompt.experiments.protocols.adversarial import ATTACKED, by_size, left
from anprompt.experiments.protocols.base_to_new import HALVES
from anprompt.experiments.records import Record
from anprompt.tables.compare import paired_sheet, picture_sheet, rank_sheet
from anprompt.tables.cost import cost_sheet
from anprompt.tables.runs import Batch, Grid, Values, average_spread, by_dataset, line_of, note, spread_note
from anprompt.tables.sheet import NEITHER, Cell, Line, Sheet, columns

WORST = "all"  # the column of what withstands every attack of a size
ABOUT = (
    "Accuracy in percent, of the same images as they are and attacked. Attacked: right as they are and under every attack "
    "of that size; it is an upper bound, as another attack may find more. The attacker knows everything that is deployed "
    "unless a column says otherwise; pixels in [0, 1] at the model's input size, fp32."
)


def attack_sheets(batch: Batch, reference: str) -> list[Sheet]:
    """Clean and attacked accuracy at the smallest size, every attack and size, comparisons, cost."""
    grid = Grid.of(batch.records, reference)
    values = _headline(grid)
    lines = by_dataset(grid, values.values())
    if len(grid.datasets) > 1:
        for method in grid.methods:
            spreads = [average_spread(found, method, grid.datasets) for found in values.values()]
            lines += line_of(f"average of {len(grid.datasets)}", method, spreads)
    told = note(batch.records, ABOUT, _threats(batch), spread_note(batch.records))
    main = Sheet(batch.title(), told, ("data", "method"), columns(tuple(values)), tuple(lines))
    others = [
        *(_by_attack(batch, grid, half) for half in HALVES), rank_sheet(batch, grid, values),
        paired_sheet(batch, grid, reference, values), picture_sheet(batch, grid, reference, _entries),
        _pace(batch, grid), cost_sheet(batch, grid),
    ]  # fmt: skip
    return [main, *(sheet for sheet in others if sheet)]


def _sizes(record: Record) -> dict[str, list[str]]:
    return by_size(record["metrics"].get("attacks", {}))


def smallest(record: Record) -> list[str]:
    """The attacks of the smallest size."""
    return next(iter(_sizes(record).values()), [])


def _headline(grid: Grid) -> dict[str, Values]:
    def clean(half: str) -> Values:
        return grid.values(lambda r: r["metrics"][half]["accuracy"])

    def attacked(half: str) -> Values:
        return grid.values(lambda r: left(r["metrics"], half, smallest(r)) if smallest(r) else None)

    def joint(record: Record) -> float | None:
        names = smallest(record)
        figures = [record["metrics"][half]["accuracy"] for half in HALVES]
        attacked = [left(record["metrics"], half, names) for half in HALVES] if names else []
        return statistics.harmonic_mean([*figures, *attacked]) if names else None

    return {
        **{half: clean(half) for half in HALVES}, **{ATTACKED[half]: attacked(half) for half in HALVES},
        "H of four": grid.values(joint),
    }  # fmt: skip


def _threats(batch: Batch) -> str:
    """Which attacks the attacked columns stand for."""
    names = list(dict.fromkeys(name for record in batch.records for name in smallest(record)))
    return f"Attacked columns: {', '.join(names)}." if names else ""


def _by_attack(batch: Batch, grid: Grid, half: str) -> Sheet | None:
    """Average over data sets by size and method, a column for each attack and one for all of them."""
    sizes: dict[str, list[str]] = {}
    for record in batch.records:
        for size, names in _sizes(record).items():
            sizes[size] = list(dict.fromkeys([*sizes.get(size, []), *names]))
    if not sizes:
        return None
    kinds = list(dict.fromkeys(_kind(name) for names in sizes.values() for name in names))
    lines = []
    for size, names in sizes.items():
        own = {_kind(name): name for name in names}
        for method in grid.methods:
            spreads = [_left(grid, method, half, [own[kind]] if kind in own else []) for kind in kinds]
            lines += line_of(size, method, [*spreads, _left(grid, method, half, names)])
    about = note(batch.records, f"Accuracy left in percent on {half} classes, average over data sets.", ABOUT)
    heads = columns((*kinds, WORST))
    return Sheet(batch.title(f"{half} classes, by attack and size"), about, ("size", "method"), heads, tuple(lines))


def _kind(name: str) -> str:
    threat = ThreatModel.parse(name)
    return threat.title


def _left(grid: Grid, method: str, half: str, names: list[str]) -> Spread | None:
    def measure(record: Record) -> float | None:
        there = record["metrics"].get("attacks", {})
        return left(record["metrics"], half, names) if names and all(name in there for name in names) else None

    return average_spread(grid.values(measure), method, grid.datasets)


def _entries(record: Record) -> Mapping[str, Mapping[str, Any]]:
    """Clean entries by half, and those of each attack of the smallest size."""
    metrics = record["metrics"]
    clean = {half: metrics[half] for half in HALVES}
    return clean | {f"{half}, {_kind(n)}": metrics["attacks"][n][half] for n in smallest(record) for half in HALVES}


def _pace(batch: Batch, grid: Grid) -> Sheet | None:
    """What the attacks took, and how often a gradient was exactly zero."""
    lines = []
    for method in grid.methods:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for seeds in grid.runs[method].values():
            for record in seeds.values():
                took: Mapping[str, Mapping[str, float]] = record["timings"].get("attacks_s", {})
                for name, entries in record["metrics"].get("attacks", {}).items():
                    own = [{**entries[half], "seconds": took.get(name, {}).get(half, 0.0)} for half in HALVES]
                    found.setdefault(name, []).extend(own)
        for name, entries in found.items():
            tried, seconds = sum(e["attacked_pictures"] for e in entries), sum(e["seconds"] for e in entries)
            stuck = statistics.fmean(e["zero_gradients"] for e in entries)
            figures = (
                Cell.number(tried, "{:.0f}"),
                Cell.number(tried / seconds if seconds else None, "{:.2f}"),
                Cell.number(stuck),
            )
            lines.append(Line(method, name, figures))
    if not lines:
        return None
    text = "Images that were still right and had to be attacked, how many a second, and the share of zero gradients in percent."
    heads = columns(("attacked images", "images/s", "zero gradients %"), NEITHER)
    return Sheet(
        batch.title("cost of the attacks"), note(batch.records, text), ("method", "attack"), heads, tuple(lines)
    )
