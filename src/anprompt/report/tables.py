"""The tables of `anprompt.tables` as HTML, so that the page's figures are those of every other form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from anprompt.report import markup
from anprompt.report.markup import escape
from anprompt.tables import Cell, Line, Sheet, nice
from anprompt.tables.sheet import NEITHER

LONG = 24  # lines of a table that are shown without asking
KINDS = {"compared": " against the others, ", "rank": ": average rank", "cost": ": cost", "noise": "under noise"}


def kind(sheet: Sheet) -> str:
    """The section a sheet stands in: a key of `KINDS`, or "" for a protocol's own figures."""
    title = sheet.title.casefold()
    return next((name for name, words in KINDS.items() if words in title), "")


def pick(sheets: Iterable[Sheet], wanted: str, *topics: str) -> list[Sheet]:
    """Sheets of a kind, of protocols whose tables start with one of the topics (or of all)."""
    return [s for s in sheets if kind(s) == wanted and (not topics or s.title.startswith(topics))]


def tables(sheets: Sequence[Sheet], styles: dict[str, int], *, opened: int = 1) -> str:
    """Each in a fold, the first ones open."""
    return "".join(
        markup.fold(sheet.title, sheet_table(sheet, styles), opened=index < opened)
        for index, sheet in enumerate(sheets)
    )


def sheet_table(sheet: Sheet, styles: dict[str, int]) -> str:
    """A table and its note; groups have a heading of their own, the best figures are bold."""
    best = sheet.best()
    heads = [sheet.stub[1], *(column.name for column in sheet.columns)]
    width = len(heads)
    body, at = "", 0
    for group, lines in groupby(sheet.lines, key=lambda line: line.group):
        rows = ""
        if group:
            rows = f'<tr class="group"><th scope="rowgroup" colspan="{width}">{_pinned(group)}</th></tr>'
        for line in lines:
            rows += _row(line, {column for row, column in best if row == at}, styles)
            at += 1
        body += f"<tbody>{rows}</tbody>"
    head = "".join(
        f'<th scope="col"{" class=n" if index else ""}>{escape(nice(name))}</th>' for index, name in enumerate(heads)
    )
    table = f"<table><thead><tr>{head}</tr></thead>{body}</table>"
    bold = "" if not best else " The best is in bold."
    if not any(column.better != NEITHER for column in sheet.columns):
        bold = ""
    return markup.box(sheet.title, table) + markup.note(sheet.note + bold)


def _pinned(group: str) -> str:
    """A group's name that stays in sight when the table is scrolled sideways."""
    return f'<span class="pinned">{escape(group)}</span>'


def _row(line: Line, best: set[int], styles: dict[str, int]) -> str:
    cells = "".join(_cell(cell, column in best) for column, cell in enumerate(line.cells))
    return f"<tr>{markup.row_head(nice(line.name), styles.get(line.name))}{cells}</tr>"


def _cell(cell: Cell, best: bool) -> str:
    text = cell.text or markup.MISSING
    title = ""
    if cell.half is not None and cell.mean is not None:
        title = f"95 % interval {cell.mean - cell.half:.1f} to {cell.mean + cell.half:.1f}, {cell.n} seeds"
    return markup.Cell(text, "n best" if best else "n", title=title).html()
