"""A table (CSV) of pictures as a data set: columns path, label and, if you like, split."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
from pathlib import Path

from anprompt.data.folder import PART_FOLDERS
from anprompt.data.images import check_picture, read_item, shown
from anprompt.data.names import check_classnames
from anprompt.data.splits import complete_parts
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from anprompt.files import LARGEST_TEXT, check_readable

log = logging.getLogger("anprompt")

# One row of the table: line in the file, resolved path, label as written, part.
_Row = tuple[int, str, str, str]


def table_dataset(file: Path) -> Dataset:
    """Reads a table with a header `path,label[,split]`; further columns are ignored.

    The delimiter may be a comma, a semicolon or a tab; the text UTF-8, with or without a byte order mark,
    or Excel's UTF-16. Paths are relative to the table. Classes are sorted by name, so the order of rows
    does not matter; without a split column the data is divided by `splits.complete_parts`. Damaged
    pictures are listed in `skipped`.

    Raises:
        UserError: missing columns, and rows with a missing file, an empty label, an unknown split or a
            path that another row has already; with the line number.
    """
    rows = _checked_rows(file)
    skipped: list[str] = []
    sound: list[_Row] = []
    for row in rows:
        reason = check_picture(row[1])
        if reason is None:
            sound.append(row)
        else:
            skipped.append(f"{shown(row[1])}: {reason} (line {row[0]} of {file.name})")
    raw_names = sorted({label for _, _, label, _ in sound})
    if len(raw_names) < 2:
        why = f" The first left out: {skipped[0]}" if skipped else ""
        raise UserError(
            f"{shown(file)} has usable pictures of {len(raw_names)} class(es); at least two are needed.{why}"
        )
    classnames = check_classnames(raw_names)
    label_of = {raw: label for label, raw in enumerate(raw_names)}
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for _, path, raw, part in sorted(sound, key=lambda row: (label_of[row[2]], row[1])):
        parts[part].append(Item(path, label_of[raw], classnames[label_of[raw]]))
    full = complete_parts(parts)
    if skipped:
        log.warning("%s: %d pictures left out, the first: %s", shown(file), len(skipped), skipped[0])
    return Dataset(
        name=file.stem,
        classnames=tuple(classnames),
        train=tuple(full["train"]),
        val=tuple(full["val"]),
        test=tuple(full["test"]),
        read=read_item,
        skipped=tuple(skipped),
    )


def _checked_rows(file: Path) -> list[_Row]:
    """All rows, or an error about the first bad one that says how many more there are."""
    rows: list[_Row] = []
    problems: list[str] = []
    seen: dict[str, _Row] = {}
    for line, cells in _cells(file):
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
    part = PART_FOLDERS.get(cells.get("split", "train").lower(), "")
    problem = None
    if not written:
        problem = "the path is empty"
    elif not label:
        problem = "the label is empty"
    elif not part:
        problem = f"the split {cells['split']!r} is none of train, val, test"
    elif written.startswith(("http://", "https://")):
        problem = f"{written!r} is a web address; download the picture first"
    elif "\0" in written or not os.path.lexists(path):
        problem = f"there is no file {shown(path)}"
    return (line, path, label, part or "train"), problem


def _cells(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and named cells of every row that isn't blank."""
    text = _text(file)
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
                names = _column_names(file, values)
                continue
            padded = values + [""] * (len(names) - len(values))
            if len(values) > len(names):
                raise UserError(
                    f"{shown(file)}, line {reader.line_num}: {len(values)} cells under {len(names)} columns; "
                    f"put quotes around cells that hold the delimiter {delimiter!r}."
                )
            found.append((reader.line_num, dict(zip(names, padded))))
    except csv.Error as error:
        raise UserError(f"{shown(file)}, line {reader.line_num}: {error}.") from None
    if not names:
        raise UserError(f"{shown(file)} is empty; its first line should be path,label or path,label,split.")
    return found


def _column_names(file: Path, values: list[str]) -> list[str]:
    names = [value.lower() for value in values]
    missing = [name for name in ("path", "label") if name not in names]
    twice = [name for name in ("path", "label", "split") if names.count(name) > 1]
    if missing or twice:
        what = f"no column {missing[0]!r}" if missing else f"two columns {twice[0]!r}"
        raise UserError(
            f"{shown(file)} has {what}; its first line is {','.join(values)[:80]!r} and should be path,label "
            "or path,label,split."
        )
    return names


def _text(file: Path) -> str:
    try:
        check_readable(file, LARGEST_TEXT)
        data = file.read_bytes()
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(file)} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{shown(file)} can't be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{shown(file)} can't be read: {error}.") from None
