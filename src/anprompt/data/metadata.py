"""Labels in a table beside the images: `metadata.csv` or `metadata.jsonl`, as the Hugging Face hub keeps them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.data.images import shown
from anprompt.data.part_names import plain_part
from anprompt.data.table import LABEL_COLUMNS, SPLIT_COLUMNS, read_cells
from anprompt.data.text_files import file_text
from anprompt.data.walk import Folder
from anprompt.errors import UserError

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.tsv")


@dataclass(frozen=True)
class Row:
    """A file with its label; `part` is "" where the table has no split column."""

    path: Path
    label: str
    part: str


@dataclass
class Labels:
    """The tables of a folder and of the folders in it.

    Attributes:
        files: the tables.
        folders: where they lie.
        rows: files with labels; empty where no table has a column for labels.
    """

    files: list[Path] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def folders(self) -> set[Path]:
        return {file.parent for file in self.files}

    @property
    def names(self) -> str:
        """What to call them."""
        return shown(self.files[0].name) + (f" ({len(self.files)} files)" if len(self.files) > 1 else "")


def find_labels(folder: Folder) -> Labels | None:
    """The tables in a folder, or else in its part folders; None where there are none.

    Raises:
        UserError: a table that can't be read, lists a file that isn't there, or the same one twice; or
            tables of which only some have labels.
    """
    places = [folder] if _table(folder) else [inner for inner in folder.folders if plain_part(inner.name)]
    files = [file for place in places if (file := _table(place))]
    if not files:
        return None
    found = Labels(files)
    bare = []
    for file in files:
        rows = list(_rows(file))
        if rows and not rows[0].label:
            bare.append(file)
        else:
            found.rows += rows
    if bare and found.rows:
        raise UserError(
            f"{shown(bare[0])} has no column 'label', as {shown(next(f for f in files if f not in bare))} has."
        )
    paths = [row.path for row in found.rows]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"{found.names} lists {shown(twice)} more than once.")
    return found


def _table(folder: Folder) -> Path | None:
    return next((file for file in folder.files if file.name.lower() in _NAMES), None)


def _rows(file: Path) -> Iterator[Row]:
    for line, cells in _json_lines(file) if file.suffix.lower() == ".jsonl" else read_cells(file, ("path",)):
        path = Path(os.path.normpath(file.parent / cells["path"].replace("\\", "/")))
        if not cells["path"] or not os.path.lexists(path):
            raise UserError(f"{shown(file)}, line {line}: there is no file {shown(path)}.")
        if "label" in cells and not cells["label"]:
            raise UserError(f"{shown(file)}, line {line}: the label is empty.")
        part = plain_part(cells.get("split", ""))
        if cells.get("split") and not part:
            raise UserError(f"{shown(file)}, line {line}: the split {cells['split']!r} is none of train, val, test.")
        yield Row(path, cells.get("label", ""), part)


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and named cells of every line that isn't blank."""
    for number, line in enumerate(file_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UserError(f"{shown(file)}, line {number}: no JSON object with a file_name.")
        cells = {"path": row["file_name"]}
        low = {str(key).lower(): value for key, value in row.items()}
        for name, columns in (("label", LABEL_COLUMNS), ("split", SPLIT_COLUMNS)):
            column = next((column for column in columns if column in low), None)
            if column is not None:
                value = low[column]
                if value is not None and not isinstance(value, (str, int)):
                    raise UserError(
                        f"{shown(file)}, line {number}: {column!r} is {type(value).__name__}, not one class."
                    )
                cells[name] = "" if value is None else str(value)
        yield number, cells
