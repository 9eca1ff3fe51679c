"""A table (CSV) of pictures as a data set: columns path, label and, if you like, split."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from anprompt.data.assemble import LabelledFile, assemble
from anprompt.data.images import shown
from anprompt.data.part_names import plain_part
from anprompt.data.reading import PARTS
from anprompt.data.text_files import file_text
from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.utils.files import first_line

# Names of the columns, in lower case; the first is ours, the others are those of other tools.
PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "filepath")
LABEL_COLUMNS = ("label", "class", "classname", "class_name", "category")
SPLIT_COLUMNS = ("split", "part", "set", "subset")

# One row of the table: line in the file, resolved path, label as written, part ("" where there is none).
_Row = tuple[int, str, str, str]


def table_dataset(file: Path, *, least_classes: int = 2) -> Dataset:
    """Reads a table with a header `path,label[,split]`; further columns are ignored.

    The delimiter may be a comma, a semicolon or a tab; the text is read as `file_text` reads it. Paths are relative to the table. Classes are sorted by name, so the order of rows
    does not matter; without a split column the data is divided, with one its parts are taken as they are.
    Damaged pictures are listed in `reading.left_out`.

    Args:
        least_classes: how many classes it must hold.

    Raises:
        UserError: missing columns, and rows with a missing file, an empty label, an unknown split or a
            path that another row has already; with the line number.
    """
    rows = sorted(_checked_rows(file), key=lambda row: (row[2], row[1]))
    files = [LabelledFile(path, label, part, where=f"line {line} of {file.name}") for line, path, label, part in rows]
    return assemble(
        file, file.stem, files, layout="table", classnames=[(row.part, row.classname) for row in files],
        parts={part: [f"split {part}"] for part in PARTS if any(row.part == part for row in files)},
        least_classes=least_classes,
    )  # fmt: skip


def _checked_rows(file: Path) -> list[_Row]:
    """All rows, or an error about the first bad one that says how many more there are."""
    rows: list[_Row] = []
    problems: list[str] = []
    seen: dict[str, _Row] = {}
    for line, cells in read_cells(file):
        row, problem = _row(file, line, cells)
        earlier = seen.setdefault(row[1], row)
        if problem is None and earlier is not row:
            same = earlier[2] == row[2]
            what = "repeats" if same else f"says {row[2]!r} and contradicts"
            problem = f"{cells['path']!r} {what} line {earlier[0]}" + ("" if same else f" ({earlier[2]!r})")
        if problem is not None:
            problems.append(f"line {line}: {problem}")
        rows.append(row)
    if problems:
        more = f" (and {len(problems) - 1} more bad lines)" if len(problems) > 1 else ""
        raise UserError(f"{shown(file)}, {problems[0]}{more}.")
    if not rows:
        raise UserError(f"{shown(file)} has a header but no rows.")
    return rows


def _row(file: Path, line: int, cells: dict[str, str]) -> tuple[_Row, str | None]:
    """One row, and what is wrong with it."""
    written, label = cells["path"], cells["label"]
    path = os.path.normpath(file.parent / written)
    if "\\" in written and not os.path.exists(path):  # tables made on Windows
        path = os.path.normpath(file.parent / written.replace("\\", "/"))
    part = plain_part(cells.get("split", ""))
    problem = None
    if not written:
        problem = "the path is empty"
    elif not label:
        problem = "the label is empty"
    elif "split" in cells and part not in PARTS:
        problem = f"the split {cells['split']!r} is none of train, val, test"
    elif written.startswith(("http://", "https://")):
        problem = f"{written!r} is a web address; download the picture first"
    elif "\0" in written or not os.path.lexists(path):
        problem = f"there is no file {shown(path)}"
    return (line, path, label, part), problem


def read_cells(file: Path, needed: tuple[str, ...] = ("path", "label")) -> list[tuple[int, dict[str, str]]]:
    """Line number and named cells of every row that isn't blank.

    Args:
        needed: columns that must be there; `path`, `label` and `split` stand for their other names, too.
    """
    text = file_text(file)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, dict[str, str]]] = []
    names: list[str] = []
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if not names:
                names = _column_names(file, values, needed)
                continue
            padded = values + [""] * (len(names) - len(values))
            if len(values) > len(names):
                raise UserError(
                    f"{shown(file)}, line {reader.line_num}: {len(values)} cells under {len(names)} columns; "
                    f"put quotes around cells that hold the delimiter {delimiter!r}."
                )
            found.append((reader.line_num, dict(zip(names, padded))))
    except csv.Error as error:
        raise UserError(f"{shown(file)}, line {reader.line_num}: {first_line(error)}.") from None
    if not names:
        raise UserError(f"{shown(file)} is empty; its first line should be path,label or path,label,split.")
    return found


def _column_names(file: Path, values: list[str], needed: tuple[str, ...]) -> list[str]:
    """The columns' names in lower case, those of other tools as ours."""
    names = [value.lower() for value in values]
    if "path" not in names:  # a table of another tool
        for ours, others in (("path", PATH_COLUMNS), ("label", LABEL_COLUMNS), ("split", SPLIT_COLUMNS)):
            alike = next((name for name in others if name in names), None)
            names = [ours if name == alike else name for name in names]
    missing = [name for name in needed if name not in names]
    twice = [name for name in ("path", "label", "split") if names.count(name) > 1]
    if missing or twice:
        what = f"no column {missing[0]!r}" if missing else f"two columns {twice[0]!r}"
        raise UserError(
            f"{shown(file)} has {what}; its first line is {','.join(values)[:80]!r} and should be path,label "
            "or path,label,split."
        )
    return names
