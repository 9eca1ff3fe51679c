"""Small pieces of HTML: tables that scroll in their own box, folds, pictures as data.

A `Cell` is text with a class; all text is escaped here, so that sections hand over names as they are.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import Image

MISSING = "\N{EN DASH}"

# What a reader can't see or what turns the text around: controls but tab and line feed, lone surrogates, marks of
# direction, invisible letters. Joiners stay between letters that need them (Persian, Indic scripts, emoji).
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)


def escape(text: str) -> str:
    """Text of a user or a file as HTML: its signs as entities, marks that nobody would see as their code, `<U+202E>`."""
    return html.escape(_UNSEEN.sub(lambda mark: f"<U+{ord(mark[0]):04X}>", text))


class Cell(NamedTuple):
    """Text of a table's cell; `kind` is its class, `under` a smaller second line, `title` a tooltip."""

    text: str
    kind: str = ""
    under: str = ""
    title: str = ""

    def html(self) -> str:
        kind = f' class="{self.kind}"' if self.kind else ""
        title = f' title="{escape(self.title)}"' if self.title else ""
        under = f"<small>{escape(self.under)}</small>" if self.under else ""
        return f"<td{kind}{title}>{escape(self.text)}{under}</td>"


class Line(NamedTuple):
    """A row: its heading, an index of its method's colour (or None), and its cells."""

    head: str
    cells: Sequence[Cell]
    style: int | None = None


def table(name: str, columns: Sequence[str], lines: Iterable[Line], *, left: Sequence[int] = (), kind: str = "") -> str:
    """A table with row headings in a box of its own that scrolls sideways where it has to.

    Args:
        name: what a screen reader calls the box.
        columns: headings, that of the row headings first; those whose index is in `left` are flush left.
    """
    heads = "".join(
        f'<th scope="col"{"" if not index or index in left else " class=n"}>{escape(column)}</th>'
        for index, column in enumerate(columns)
    )
    body = "".join(
        f"<tr>{row_head(line.head, line.style)}{''.join(cell.html() for cell in line.cells)}</tr>" for line in lines
    )
    return box(
        name, f"<table{f' class={kind}' if kind else ''}><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def row_head(name: str, style: int | None = None) -> str:
    """A row's heading, with its method's mark."""
    if style is None:
        return f'<th scope="row">{escape(name)}</th>'
    return f'<th scope="row" class="keyed">{key(style)}{escape(name)}</th>'


def box(name: str, content: str) -> str:
    """A region that can be scrolled sideways, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def key(style: int) -> str:
    """The mark of a method beside its name."""
    from anprompt.report.charts import mark

    return f'<svg class="key" width="16" height="16" aria-hidden="true">{mark(style, 8, 8, 5.5)}</svg>'


def fold(summary: str, content: str, *, opened: bool = False) -> str:
    """Something to open; empty where there is nothing in it."""
    if not content:
        return ""
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{content}</details>"


def note(text: str) -> str:
    """A paragraph in small print; empty for no text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def figures(values: Sequence[float | None], *, unders: Sequence[str] = (), decimals: int = 1) -> list[Cell]:
    """A row's values, right-aligned."""
    unders = unders or [""] * len(values)
    return [
        Cell(MISSING if value is None else f"{value:.{decimals}f}", "n", under) for value, under in zip(values, unders)
    ]


def mark_best(rows: Sequence[Sequence[float | None]], cells: Sequence[list[Cell]], *, low: Iterable[int] = ()) -> None:
    """Set the best cell of every column in bold, in place; of equal ones as printed, all.

    Args:
        rows: the values the cells were made of.
        low: columns whose lowest value is the best.
    """
    if len(rows) < 2:
        return
    lowest = set(low)
    for column in range(min(map(len, rows))):
        known = [round(row[column], 1) for row in rows if row[column] is not None]  # type: ignore[arg-type]
        if not known:
            continue
        best = min(known) if column in lowest else max(known)
        for row, line in zip(rows, cells):
            value = row[column]
            if value is not None and round(value, 1) == best:
                line[column] = line[column]._replace(kind=f"{line[column].kind} best".strip())


def data_uri(picture: Image.Image, side: int = 192) -> str:
    """A picture as a data URI, at most `side` pixels wide and high."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
