"""Downloads in the form of data hubs: class folders below train and test, or parquet files with the pictures.

Their pictures are found again by name and class, so that the field's split fits them where names were kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from anprompt.data.classic.catalog import CatalogRow
from anprompt.data.classic.coop import PARTS, Parts
from anprompt.data.classic.labelled import Labelled, pictures_below
from anprompt.data.images import shown
from anprompt.data.part_names import plain_part
from anprompt.errors import UserError
from anprompt.utils.files import first_line

_BATCH = 64  # rows of a parquet file in memory at once


@dataclass(frozen=True)
class Entry:
    """One picture of a download.

    Attributes:
        part: "train", "val" or "test"; empty where the download has no parts.
        classname: as the download has it.
        name: file name without folders; may be empty in parquet files.
        file: where the picture lies; for a parquet file that one, with `row` counted from 0.
    """

    part: str
    classname: str
    name: str
    file: Path
    row: int = -1


def folder_entries(base: Path) -> list[Entry]:
    """Pictures of `base/<class>/*` or `base/{train,val,test}/<class>/*`; empty where it is neither."""
    found = []
    for path in pictures_below(base):
        steps = path.split("/")
        part = plain_part(steps[0]) if len(steps) > 2 else ""
        classes = steps[1:-1] if part else steps[:-1]
        if classes:
            found.append(Entry(part, "/".join(classes), steps[-1], base / path))
    return found


def parquet_files(source: Path) -> list[Path]:
    """The file itself, or the parquet files in a folder and the two levels below it."""
    if source.is_file():
        return [source] if source.suffix == ".parquet" else []
    return sorted(file for depth in ("", "*/", "*/*/") for file in source.glob(f"{depth}*.parquet"))


def parquet_entries(files: list[Path]) -> list[Entry]:
    """Class, part and file name of every row; no picture is read.

    Raises:
        UserError: pyarrow is not installed, or a file holds no pictures with labels.
    """
    parquet = _pyarrow()
    entries: list[Entry] = []
    for file in files:
        part = plain_part(re.split(r"[-._]", file.name.lower())[0])
        with _opened(parquet, file) as table:
            image, label, names = _columns(table, file)
            row = 0
            for batch in table.iter_batches(batch_size=4096, columns=[f"{image}.path", label]):
                for value in batch.to_pylist():
                    path = (value[image] or {}).get("path") or ""
                    classname = _classname(value[label], names, file)
                    entries.append(Entry(part, classname, path.replace("\\", "/").rpartition("/")[2], file, row))
                    row += 1
    return entries


def parquet_pictures(files: list[Path]) -> Iterator[tuple[Path, int, bytes]]:
    """(file, row, picture) for every row, a few in memory at a time."""
    parquet = _pyarrow()
    for file in files:
        with _opened(parquet, file) as table:
            image, _, _ = _columns(table, file)
            row = 0
            for batch in table.iter_batches(batch_size=_BATCH, columns=[f"{image}.bytes"]):
                for value in batch.to_pylist():
                    yield file, row, (value[image] or {}).get("bytes") or b""
                    row += 1


def matched(row: CatalogRow, split: Parts, entries: list[Entry]) -> dict[str, Entry]:
    """The entry of every picture that a split names: the same file name, and a class of the same words.

    Raises:
        UserError: a picture has no entry, or several.
    """
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    classes = {_squashed(entry.classname) for entry in entries}
    found, lost = {}, []
    for item in (item for part in PARTS for item in split[part]):
        folder, _, name = item.path.rpartition("/")
        same = {_squashed(item.classname), _squashed(folder)}
        words = _words(item.classname) | _words(folder)
        near = [e for e in by_name.get(name, ()) if _same_class(_words(e.classname), words, item.classname)]
        if same & classes:  # "crocodile" must not be looked for in "crocodile head"
            near = [entry for entry in near if _squashed(entry.classname) in same]
        if len(near) == 1:
            found[item.path] = near[0]
        else:
            lost.append(item.path)
    if lost:
        total = sum(len(split[part]) for part in PARTS)
        raise UserError(
            f"{len(lost)} of the {total} pictures in the field's split of {row.name} can't be told by name and "
            f"class in this download, the first is {lost[0]!r}. Use the original archive, or --make-split SEED "
            "without --split for a split of your own."
        )
    return found


def own_names(row: CatalogRow, entries: list[Entry]) -> dict[str, Entry]:
    """Paths of our own for entries, a folder per class; a function of the entries alone."""
    found: dict[str, Entry] = {}
    for number, entry in enumerate(entries):
        if entry.classname in row.ignored:
            continue
        folder = re.sub(r"[^\w .,()&'+-]", "_", entry.classname).strip(". ") or "_"
        name = entry.name if re.fullmatch(r"\w[\w .,()&'+-]*\.\w+", entry.name) else f"{number:07}.jpg"
        prefix = "" if row.images else "pictures/"
        path = f"{prefix}{folder}/{name}"
        if path in found:
            path = f"{prefix}{folder}/{entry.part or 'part'}_{number:07}_{name}"
        found[path] = entry
    return found


def labelled_entries(row: CatalogRow, names: Mapping[str, Entry]) -> list[Labelled]:
    """For a split of our own; the download's test part stays test, or its val part where it has no test."""
    parts = {entry.part for entry in names.values()}
    held_out = "test" if "test" in parts else "val"
    return [
        Labelled(path, row.renames.get(entry.classname, entry.classname), entry.classname, entry.part == held_out)
        for path, entry in names.items()
    ]


@lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    """Words of a class or folder name in lower case, camel case taken apart."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return frozenset(re.findall(r"[a-z0-9]+", parted.lower()))


@lru_cache(maxsize=4096)
def _squashed(name: str) -> str:
    return "".join(re.findall(r"[a-z0-9]+", name.lower()))


def _same_class(words: frozenset[str], wanted: frozenset[str], classname: str) -> bool:
    """Whether one name's words are within the other's ("AnnualCrop", "Annual Crop Land")."""
    return bool(words) and (words <= wanted or _words(classname) <= words)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Parquet files are read with pyarrow, which is not installed; 'pip install pyarrow', or use a "
            "folder of pictures."
        ) from None
    return pyarrow.parquet


def _opened(parquet: Any, file: Path) -> Any:
    try:
        return parquet.ParquetFile(file)
    except Exception as error:  # Arrow has error classes of its own
        reason = first_line(error)[:120]
        raise UserError(f"{shown(file)} can't be read as a parquet file ({reason}).") from None


def _columns(table: Any, file: Path) -> tuple[str, str, list[str]]:
    """The picture column, the label column and the class names (empty where labels are names)."""
    schema = table.schema_arrow
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(metadata)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        features = {}
    structs = [
        field.name
        for field in schema
        if {"bytes", "path"} <= {field.type.field(i).name for i in range(field.type.num_fields)}
    ]
    classes = {key: value["names"] for key, value in features.items() if _is_class_label(value)}
    labels = [name for name in (*classes, "label", "labels") if name in schema.names]
    if not structs or not labels:
        what = "a picture column" if not structs else "a label column"
        raise UserError(f"{shown(file)} has no {what}; its columns are {', '.join(schema.names)[:120]}.")
    return structs[0], labels[0], [str(name) for name in classes.get(labels[0], [])]


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, dict) and isinstance(feature.get("names"), list)


def _classname(value: Any, names: list[str], file: Path) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    raise UserError(f"{shown(file)}: the label {value!r} has no class name in the file's description.")
