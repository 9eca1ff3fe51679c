"""What methods cost: trained parameters, time, memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from anprompt.experiments.records import Record
from anprompt.tables.runs import Batch, Grid, note
from anprompt.tables.sheet import NEITHER, Cell, Line, Sheet, columns
from anprompt.utils.machine import in_words

Read = Callable[[Record], Any]
COSTS: dict[str, tuple[Read, str]] = {
    "trained parameters": (lambda r: r.get("method", {}).get("trained_parameters"), "{:,.0f}"),
    "training, s": (lambda r: r.get("timings", {}).get("train_s"), "{:.1f}"),
    "step, ms": (lambda r: _thousand(r.get("timings", {}).get("step_s")), "{:.1f}"),
    "testing, s": (lambda r: r.get("timings", {}).get("eval_s"), "{:.1f}"),
    "peak memory, MB": (lambda r: r.get("memory", {}).get("peak_mb"), "{:.0f}"),
}


def _thousand(value: float | None) -> float | None:
    return None if value is None else 1000 * value


def cost_sheet(batch: Batch, grid: Grid) -> Sheet | None:
    """Medians over the runs of each method; None where no record tells."""
    lines = []
    for method in grid.methods:
        records = [record for seeds in grid.runs[method].values() for record in seeds.values()]
        cells = tuple(_median(records, read, text) for read, text in COSTS.values())
        lines.append(Line("", method, (*cells, Cell.number(len(records), "{:.0f}"))))
    if not any(cell.text for line in lines for cell in line.cells[:-1]):
        return None
    machines = sorted({in_words(record["hardware"]) for record in batch.records if "hardware" in record})
    told = f"Median per run. Measured on {'; '.join(machines) or 'an unknown machine'}."
    return Sheet(
        batch.title("cost"), note(batch.records, told), ("", "method"), columns((*COSTS, "runs"), NEITHER),
        tuple(lines),
    )  # fmt: skip


def _median(records: list[Record], read: Read, text: str) -> Cell:
    values = [value for value in map(read, records) if value is not None]
    return Cell.number(statistics.median(values) if values else None, text)
