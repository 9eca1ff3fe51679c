"""From run records to tables: pure functions, so that a table can always be made again."""

from __future__ import annotations

from anprompt.stats import Spread
from anprompt.tables.build import sheets
from anprompt.tables.render import to_csv, to_latex, to_markdown, to_terminal, write_sheets
from anprompt.tables.rows import (
    CLEAN,
    HEADER,
    MEAN,
    MEAN_H,
    NICE,
    Row,
    as_csv,
    base_new,
    base_new_rows,
    cells,
    condition_rows,
    conditions,
    in_order,
    label,
    labels,
    markdown,
    markdown_note,
    matched,
    nice,
    select,
    shown_name,
    terminal,
)
from anprompt.tables.sheet import Cell, Column, Line, Sheet

__all__ = [
    "CLEAN",
    "HEADER",
    "MEAN",
    "MEAN_H",
    "NICE",
    "Cell",
    "Column",
    "Line",
    "Row",
    "Sheet",
    "Spread",
    "as_csv",
    "base_new",
    "base_new_rows",
    "cells",
    "condition_rows",
    "conditions",
    "in_order",
    "label",
    "labels",
    "markdown",
    "markdown_note",
    "matched",
    "nice",
    "select",
    "sheets",
    "shown_name",
    "terminal",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "write_sheets",
]
