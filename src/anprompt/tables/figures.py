"""Sheets of any protocol: the few figures that stand for a run, by data set and on average."""

from __future__ import annotations

from collections.abc import Callable

from anprompt.experiments.protocols import PROTOCOLS
from anprompt.experiments.records import Record
from anprompt.tables.compare import paired_sheet, rank_sheet
from anprompt.tables.cost import cost_sheet
from anprompt.tables.runs import Batch, Grid, average_spread, by_dataset, line_of, note, spread_note
from anprompt.tables.sheet import Sheet, columns


def figure_sheets(batch: Batch, reference: str) -> list[Sheet]:
    """Figures, ranks, comparisons with the reference, cost."""
    protocol, grid = PROTOCOLS[batch.protocol], Grid.of(batch.records, reference)

    def figure(name: str) -> Callable[[Record], float | None]:
        return lambda record: protocol.headline(record).get(name)

    values = {name: grid.values(figure(name)) for name in protocol.figures}
    lines = by_dataset(grid, values.values())
    if len(grid.datasets) > 1:
        for method in grid.methods:
            spreads = [average_spread(found, method, grid.datasets) for found in values.values()]
            lines += line_of(f"average of {len(grid.datasets)}", method, spreads)
    about = note(batch.records, f"{protocol.doc or protocol.title}, in percent.", spread_note(batch.records))
    main = Sheet(batch.title(), about, ("data", "method"), columns(protocol.figures), tuple(lines))
    others = [
        rank_sheet(batch, grid, values), paired_sheet(batch, grid, reference, values), cost_sheet(batch, grid),
    ]  # fmt: skip
    return [main, *(sheet for sheet in others if sheet)]
