"""Sheets of the cross-dataset and domains protocols: trained on a source, tested there and on targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from anprompt.experiments.records import Record
from anprompt.tables.compare import paired_sheet, picture_sheet
from anprompt.tables.cost import cost_sheet
from anprompt.tables.noise import noise_sheets
from anprompt.tables.rows import shown_name
from anprompt.tables.runs import Batch, Grid, Values, average_spread, by_dataset, line_of, note, spread_note
from anprompt.tables.sheet import Sheet, columns

SOURCE, TARGETS = "source", "average of targets"


def entries(record: Record) -> dict[str, Mapping[str, Any]]:
    """The source's entry, and every target's by its name."""
    targets = record["metrics"]["targets"]
    return {SOURCE: record["metrics"][SOURCE], **{shown_name(name): targets[name] for name in sorted(targets)}}


def transfer_sheets(batch: Batch, reference: str) -> list[Sheet]:
    """Accuracies by source, comparisons, cost, noise if any was measured."""
    grid = Grid.of(batch.records, reference)
    others = [
        paired_sheet(batch, grid, reference, _compared(batch, grid)),
        picture_sheet(batch, grid, reference, entries) if _pictures_once(batch, grid) else None,
        cost_sheet(batch, grid),
    ]
    found = [_accuracies(batch, grid), *(sheet for sheet in others if sheet)]
    return [*found, *noise_sheets(batch, reference)]


def target_names(batch: Batch, source: str = "") -> list[str]:
    """Targets that any record (from this source) has."""
    records = [r for r in batch.records if not source or r["spec"]["dataset"] == source]
    return sorted({name for record in records for name in entries(record)} - {SOURCE})


def _accuracy(name: str) -> Callable[[Record], float | None]:
    return lambda record: entries(record).get(name, {}).get("accuracy")


def _mean_of_targets(batch: Batch) -> Callable[[Record], float | None]:
    """Of runs that have all targets of their source; the mean over fewer would be of something else."""
    expected = {source: target_names(batch, source) for source in {r["spec"]["dataset"] for r in batch.records}}

    def measure(record: Record) -> float | None:
        found, names = entries(record), expected[record["spec"]["dataset"]]
        if not names or any(name not in found for name in names):
            return None
        return statistics.fmean(found[name]["accuracy"] for name in names)

    return measure


def _accuracies(batch: Batch, grid: Grid) -> Sheet:
    """Groups are sources; with several, the averages over them come last."""
    names = target_names(batch)
    values = [grid.values(_accuracy(name)) for name in (SOURCE, *names)]
    values.append(grid.values(_mean_of_targets(batch)))
    lines = by_dataset(grid, values)
    if len(grid.datasets) > 1:
        for method in grid.methods:
            spreads = [average_spread(found, method, _having(grid, found)) for found in values]
            lines += line_of(f"average of {len(grid.datasets)} sources", method, spreads)
    told = (
        "Accuracy in percent; trained on the source alone. The average of targets leaves the source out; "
        "averages over sources are of those that have the target.", spread_note(batch.records),
    )  # fmt: skip
    heads = columns([SOURCE, *names, TARGETS])
    return Sheet(batch.title(), note(batch.records, *told), ("trained on", "method"), heads, tuple(lines))


def _having(grid: Grid, values: Values) -> list[str]:
    """Sources from which any method has the figure."""
    return [source for source in grid.datasets if any(source in sets for sets in values.values())]


def _compared(batch: Batch, grid: Grid) -> dict[str, Values]:
    """What the paired comparison runs over: sources, or the targets of the only one."""
    source = {SOURCE: grid.values(_accuracy(SOURCE))}
    if len(grid.datasets) > 1:
        return {**source, TARGETS: grid.values(_mean_of_targets(batch))}
    targets: Values = {}
    for name in target_names(batch):
        for method, sets in grid.values(_accuracy(name)).items():
            for seeds in sets.values():
                targets.setdefault(method, {})[name] = seeds
    return {**source, "targets": targets}


def _pictures_once(batch: Batch, grid: Grid) -> bool:
    """Whether no target's pictures come up under several sources, where a test would count them again."""
    shared = any(record.get("data", {}).get("targets") for record in batch.records)
    return len(grid.datasets) == 1 or not shared
