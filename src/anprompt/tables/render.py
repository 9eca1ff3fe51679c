"""Sheets as text: for the terminal, Markdown, LaTeX and CSV. Names are shown as they are, never as markup."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from anprompt.experiments.protocols import PROTOCOLS
from anprompt.tables.sheet import Sheet
from anprompt.utils import storage as store
from anprompt.utils.files import check_output

MARK = "<!-- written by anprompt -->\n"
CSV_HEAD = ("sheet", "group", "name", "column", "mean", "std", "ci95", "low", "high", "n", "text")
# How the tables of this version and of earlier ones begin.
BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "table.md": (MARK.encode(), *(f"## {topic}".encode() for topic in (one.title for one in PROTOCOLS.values()))),
    "table.tex": (b"% needs \\usepackage{booktabs}\n",),
    "table.csv": (",".join(CSV_HEAD).encode() + b"\n",),
}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", '"': r"\textquotedbl{}", "−": "$-$",
}  # fmt: skip


def plain(text: str) -> str:
    """One line that any encoding of text can hold: no breaks, no control characters, no half pairs."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def _shown(sheet: Sheet) -> list[tuple[str, str, list[str]]]:
    """(group, name, figures) of every line as plain text, the group only where it begins."""
    found, before = [], None
    for line in sheet.lines:
        group = plain(line.group) if line.group != before else ""
        before = line.group
        found.append((group, plain(line.name), [plain(cell.text) for cell in line.cells]))
    return found


def _heads(sheet: Sheet) -> list[str]:
    """Column heads; the group's is left out where there are no groups."""
    stub = sheet.stub if sheet.stub[0] else sheet.stub[1:]
    return [plain(text) for text in (*stub, *(column.name for column in sheet.columns))]


def _begins(sheet: Sheet, row: int) -> bool:
    """Whether another group than that of the line above begins here."""
    return row > 0 and sheet.lines[row].group != sheet.lines[row - 1].group


# --- terminal -------------------------------------------------------------------------------------
def to_terminal(sheet: Sheet) -> Group:
    """For rich: title, table with a rule between groups and the best in bold, note."""
    table = Table(box=box.SIMPLE_HEAD)
    stubs = 2 if sheet.stub[0] else 1
    for index, head in enumerate(_heads(sheet)):
        table.add_column(Text(head), justify="left" if index < stubs else "right", overflow="fold")
    best = sheet.best()
    for row, (group, name, figures) in enumerate(_shown(sheet)):
        if _begins(sheet, row):
            table.add_section()
        texts = [Text(text, style="bold" if (row, column) in best else "") for column, text in enumerate(figures)]
        table.add_row(*[Text(text) for text in (group, name)[2 - stubs :]], *texts)
    return Group(Text(plain(sheet.title), style="bold"), table, Text(plain(sheet.note), style="dim"))


# --- Markdown -------------------------------------------------------------------------------------
def to_markdown(sheets: Sequence[Sheet]) -> str:
    """One heading, table and note a sheet; the best in bold."""
    return "\n".join(_markdown(sheet) for sheet in sheets)


def _markdown(sheet: Sheet) -> str:
    stubs, best = (2 if sheet.stub[0] else 1), sheet.best()
    lines = [_bar(map(_md, _heads(sheet))), "|" + "---|" * stubs + "--:|" * len(sheet.columns)]
    for row, (group, name, figures) in enumerate(_shown(sheet)):
        shown = [f"**{_md(text)}**" if (row, column) in best else _md(text) for column, text in enumerate(figures)]
        lines.append(_bar([*map(_md, (group, name)[2 - stubs :]), *shown]))
    return f"## {_md(sheet.title)}\n\n" + "\n".join(lines) + f"\n\n{_md(sheet.note)}\n"


def _bar(values: Iterable[str]) -> str:
    return "| " + " | ".join(values) + " |"


def _md(text: str) -> str:
    """Escaped: what would end a cell or start markup."""
    text = re.sub(r"[\\|*`\[\]~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", plain(text))
    return text.replace("&", "&amp;").replace("<", "&lt;")


# --- LaTeX ----------------------------------------------------------------------------------------
def to_latex(sheets: Sequence[Sheet]) -> str:
    """One booktabs table a sheet, to be put into a document with `\\input`; the best in bold."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(sheet) for sheet in sheets)


def _latex(sheet: Sheet) -> str:
    stubs, best = (2 if sheet.stub[0] else 1), sheet.best()
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{latex_escape(sheet.title)}. {latex_escape(sheet.note)}}}",
        rf"\begin{{tabular}}{{{'l' * stubs}{'r' * len(sheet.columns)}}}", r"\toprule",
        " & ".join(map(latex_escape, _heads(sheet))) + r" \\", r"\midrule",
    ]  # fmt: skip
    for row, (group, name, figures) in enumerate(_shown(sheet)):
        if _begins(sheet, row):
            lines.append(r"\midrule")
        shown = [
            rf"\textbf{{{latex_escape(text)}}}" if (row, column) in best else latex_escape(text)
            for column, text in enumerate(figures)
        ]
        # the brace keeps a first cell like "[x]" from being read as the option of the break above
        lines.append(" & ".join(["{}" + latex_escape(text) for text in (group, name)[2 - stubs :]] + shown) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(char, char) for char in plain(text))


# --- CSV ------------------------------------------------------------------------------------------
def to_csv(sheets: Sequence[Sheet]) -> str:
    """One line a figure, with all digits: `CSV_HEAD`. Empty cells are left out."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for sheet in sheets:
        for line in sheet.lines:
            for column, cell in zip(sheet.columns, line.cells):
                if cell.text:
                    numbers = (cell.mean, cell.std, cell.half, cell.low, cell.high, cell.n)
                    where = [plain(text) for text in (sheet.title, line.group, line.name, column.name)]
                    figures = ["" if value is None else repr(value) for value in numbers]
                    writer.writerow([*where, *figures, plain(cell.text)])
    return out.getvalue()


def check_tables(folder: store.Place, overwrite: bool = False) -> None:
    """Whether the tables may be written there: nothing in the way but tables of before.

    Raises:
        UserError: a file of that name that anprompt did not write, or the folder can't be written.
    """
    if not store.is_url(folder):
        for name, begins in BEGINNINGS.items():
            check_output(Path(folder) / name, overwrite=overwrite, ours=begins)


def write_sheets(folder: store.Place, sheets: Sequence[Sheet], *, overwrite: bool = False) -> list[Path]:
    """Write `table.md`, `table.tex` and `table.csv`, each whole or not at all; the paths.

    At a URL only the names of these paths count.

    Args:
        overwrite: replace files of these names whoever wrote them; else only tables.

    Raises:
        UserError: the folder can't be written.
    """
    check_tables(folder, overwrite)
    texts = {"table.md": MARK + to_markdown(sheets), "table.tex": to_latex(sheets), "table.csv": to_csv(sheets)}
    paths = []
    for name, text in texts.items():
        store.write_text(folder, name, text)
        paths.append(Path(folder) / name)
    return paths
