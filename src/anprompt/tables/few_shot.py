"""Sheets of the few-shot protocol: all classes, accuracy by pictures per class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anprompt.experiments.records import Record
from anprompt.tables.compare import paired_sheet, picture_sheet, rank_sheet
from anprompt.tables.cost import cost_sheet
from anprompt.tables.noise import noise_sheets
from anprompt.tables.rows import untrained
from anprompt.tables.runs import (
    Batch,
    Grid,
    Values,
    average_spread,
    by_dataset,
    line_of,
    note,
    shots_order,
    shots_text,
    spread_note,
)
from anprompt.tables.sheet import Line, Sheet, columns


def entries(record: Record) -> Mapping[str, Mapping[str, Any]]:
    """The clean entry over all classes."""
    return {"all": record["metrics"]["all"]}


def accuracy(record: Record) -> float:
    """In percent, over all classes."""
    return record["metrics"]["all"]["accuracy"]


def by_shots(batch: Batch, reference: str) -> dict[str, Grid]:
    """A grid for every number of shots; what has nothing to train stands in each of them."""
    still = [record for record in batch.records if untrained(record)]
    shots = {record["spec"].get("shots") for record in batch.records if not untrained(record)}
    shots = shots or {record["spec"].get("shots") for record in still}
    return {
        shots_text(number): Grid.of(
            [r for r in batch.records if r["spec"].get("shots") == number and not untrained(r)] + still, reference
        )
        for number in sorted(shots, key=shots_order)
    }


def few_shot_sheets(batch: Batch, reference: str) -> list[Sheet]:
    """Methods by shots, then what is said of one number of shots: that of the largest."""
    grids = by_shots(batch, reference)
    values = {shots: grid.values(accuracy) for shots, grid in grids.items()}
    whole = Grid.of(batch.records, reference)  # for its methods and data sets
    told = (
        "Accuracy in percent over all classes, by labelled pictures per class.", spread_note(batch.records),
        "A method with nothing to train has the same accuracy everywhere.",
    )  # fmt: skip
    main = Sheet(
        batch.title(), note(batch.records, *told), ("data", "method"),
        columns([_shown(shots) for shots in grids]),
        (*by_dataset(whole, values.values()), *_averages(whole, values)),
    )  # fmt: skip
    most = list(grids)[-1]
    apart = ", ".join(filter(None, (batch.apart, f"{most} shots")))
    largest = Batch(batch.protocol, _with_shots(batch, most), apart)
    by_measure = {_shown(shots): found for shots, found in values.items()}
    others = [
        rank_sheet(batch, whole, by_measure),
        paired_sheet(batch, whole, reference, by_measure),
        picture_sheet(largest, grids[most], reference, entries),
        cost_sheet(largest, grids[most]),
    ]
    return [main, *(sheet for sheet in others if sheet), *noise_sheets(largest, reference)]


def _shown(shots: str) -> str:
    return f"{shots} shot" if shots == "1" else f"{shots} shots"


def _with_shots(batch: Batch, shots: str) -> tuple[Record, ...]:
    """Of these shots, and those that have nothing to train."""
    return tuple(r for r in batch.records if shots_text(r["spec"].get("shots")) == shots or untrained(r))


def _averages(whole: Grid, values: Mapping[str, Values]) -> list[Line]:
    """For methods that have all data sets, where there are several."""
    if len(whole.datasets) < 2:
        return []
    group = f"average of {len(whole.datasets)}"
    return [
        line
        for method in whole.methods
        for line in line_of(group, method, [average_spread(found, method, whole.datasets) for found in values.values()])
    ]
