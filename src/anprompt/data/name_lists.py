"""Lists of class names as people write them, and files that give codes their names.

apple,banana,"tiger, adult"      a line: commas, quotes around names that hold one, or a JSON list
list.txt, list.csv, list.json    a name a line; numbered lines; a table with or without a header; JSON
names.json, names.csv            label and name: {"n07739125": "apple"}, two columns, or a name a line
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anprompt.data.names import class_key, spoken
from anprompt.data.types import Dataset
from anprompt.errors import LONGEST, UserError
from anprompt.utils.files import LARGEST_TEXT, check_readable, first_line

log = logging.getLogger("anprompt")

NAME_COLUMNS = ("name", "class", "classname", "class_name", "class name", "names", "classes", "text", "title")
LABEL_COLUMNS = ("label", "labels", "id", "index", "idx", "number", "no", "nr", "code", "wnid", "synset", "class_id", "class id", "label_id", "folder", "key")  # fmt: skip
_COMMENT = re.compile(r"\s+#\s.*$")  # `banana  # yellow`; "size #5" is a name
_NUMBERED = re.compile(r"\s*(\d{1,9})\s*[,;:\t.)]\s*(\S.*)")
_WORDNET = re.compile(r"[nvar]\d{8}")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_COUNTED = re.compile(r"([A-Za-z]{0,12}?)[ _-]*\d+")

Row = tuple[int, str]  # line of the file, name


# --- a line ---------------------------------------------------------------------------------------
def split_names(text: str) -> list[str]:
    """Names of one line: between commas, quoted where they hold one, or a JSON list.

    Raises:
        UserError: a quote or a JSON list that is not closed.
    """
    stripped = text.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        try:
            listed = json.loads(stripped)
        except (ValueError, RecursionError):  # '[red],[blue]' are names
            listed = None
        if isinstance(listed, list):
            return [_text_of(name, number) for number, name in enumerate(listed)]
    if stripped.startswith(('["', "['")):
        raise UserError(
            f'The class list {stripped[:40]!r} is neither names, one a line, nor a JSON list; write a,b or ["a", "b"].'
        )
    if not stripped.strip(", "):
        return []
    try:
        rows = list(csv.reader([stripped], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"The class list {stripped[:40]!r} can't be read ({first_line(error)}); put quotes around names that hold a comma."
        ) from None
    cells = [cell.strip() for cell in rows[0]]
    return cells[:-1] if len(cells) > 1 and not cells[-1] else cells


def _text_of(name: Any, number: int) -> str:
    if not isinstance(name, str):
        raise UserError(f"The class list holds {str(name)[:40]!r} at place {number}, which is not text.")
    return name


# --- a file ---------------------------------------------------------------------------------------
def file_text(path: str | os.PathLike) -> str:
    """Text of a list as editors and spreadsheets save it: UTF-8, UTF-16 or UTF-32 with a mark, UTF-16 without
    one, else Latin-1 (told).

    Raises:
        UserError: no such file, a pipe, a device, or one of binary content.
    """
    try:
        check_readable(Path(path), LARGEST_TEXT)
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} can't be read ({getattr(error, 'strerror', None) or error}).") from None
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError:
        if re.search(rb"[\x00-\x08\x0e-\x1f]", data):
            raise UserError(f"{str(path)!r} is not text; save it as UTF-8.") from None
        log.warning("%s is not UTF-8 text; it was read as Latin-1", path)
        text = data.decode("cp1252", "replace")  # Latin-1 as Windows writes it
    if "\0" in text:
        raise UserError(f"{str(path)!r} is not text; save it as UTF-8.")
    return text


def _encoding(data: bytes) -> str:
    marks = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
             (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
    for mark, name in marks:
        if data.startswith(mark):
            return name
    if data[1:400:2].count(0) > len(data[1:400:2]) // 2:
        return "utf-16-le"
    if data[0:400:2].count(0) > len(data[0:400:2]) // 2:
        return "utf-16-be"
    return "utf-8-sig"


def read_class_list(path: str | os.PathLike, *, whole: bool = False) -> list[str]:
    """The class names of a file.

    A name a line (blank lines and what follows `#` are passed over), numbered lines in the order of their
    numbers, a table of which the column of names is taken, one line with commas, a JSON list, or JSON objects
    {"0": "apple"} and {"apple": 0}.

    Args:
        whole: every line must be usable, because the order or the number of names matters; else those that
            can't be used are left out, each with a line that says which and why.

    Raises:
        UserError: the file can't be read, or holds no usable name.
    """
    rows = _rows(path)
    kept: list[str] = []
    seen: dict[str, Row] = {}
    for line, name in rows:
        problem = _problem(name)
        key = class_key(name)
        if problem is None and key in seen and not whole:
            problem = f"{name[:LONGEST]!r} is the class {seen[key][1][:LONGEST]!r} of line {seen[key][0]} again"
        if problem is not None and whole:
            raise UserError(f"{str(path)!r}, line {line}: {problem}")
        if problem is not None:
            log.warning("%s, line %d left out: %s", path, line, problem)
            continue
        seen[key] = (line, name)
        kept.append(name)
    if not kept:
        raise UserError(f"{str(path)!r} is empty: it holds no usable class name. Write one a line.")
    return kept


def _problem(name: str) -> str | None:
    try:
        spoken(name)
    except UserError as error:
        return str(error)
    return None


def _rows(path: str | os.PathLike) -> list[Row]:
    text = file_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        found = _json_rows(path, text)
        if found is not None:
            return found
    lines = _lines(text)
    if len(lines) == 1 and "," in lines[0][1]:
        return [(lines[0][0], name) for name in split_names(lines[0][1])]
    numbered = _in_order(lines)
    if numbered is not None:
        return numbered
    if str(path).lower().endswith((".csv", ".tsv")):
        return _table_rows(path, lines)
    return [(number, _unquoted(line)) for number, line in lines]


def _lines(text: str) -> list[Row]:
    """Lines with words, without comments, and their numbers from 1."""
    lines = [(number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)]
    kept = [(number, _COMMENT.sub("", line)) for number, line in lines if line and not line.startswith("#")]
    return [(number, line) for number, line in kept if line.strip()]


def _unquoted(line: str) -> str:
    quoted = len(line) > 2 and line[0] == line[-1] == '"' and '"' not in line[1:-1].replace('""', "")
    return line[1:-1].replace('""', '"') if quoted else line


def _in_order(lines: Sequence[Row]) -> list[Row] | None:
    """Names of numbered lines, `0,apple`, `1. apple`, by number; None unless they count from 0 or 1."""
    parts = [(line, _NUMBERED.fullmatch(text)) for line, text in lines]
    found = [(int(part.group(1)), line, part.group(2).strip()) for line, part in parts if part]
    numbers = sorted(number for number, _, _ in found)
    start = numbers[0] if numbers else 0
    whole = len(found) == len(lines) or (len(found) == len(lines) - 1 and parts[0][1] is None)
    if not whole or len(found) < 2 or start > 1 or numbers != list(range(start, start + len(found))):
        return None
    return [(line, _unquoted(name)) for _, line, name in sorted(found)]


def _table(path: str | os.PathLike, lines: Sequence[Row]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header (empty where there is none) and rows of a table without comments."""
    if not lines:
        return [], []
    delimiter = max(",;\t", key=lines[0][1].count)
    try:
        rows = [
            (number, [cell.strip() for cell in next(csv.reader(io.StringIO(line), delimiter=delimiter))])
            for number, line in lines
        ]
    except csv.Error as error:
        raise UserError(f"{str(path)!r} is not a table ({first_line(error)}).") from None
    header = [cell.lower() for cell in rows[0][1]]
    if any(cell in (*NAME_COLUMNS, *LABEL_COLUMNS) for cell in header):
        return header, rows[1:]
    return [], rows


def _table_rows(path: str | os.PathLike, lines: Sequence[Row]) -> list[Row]:
    """The column of names of a table."""
    header, rows = _table(path, lines)
    if not rows:
        return []
    width = max(len(cells) for _, cells in rows)
    column = next((header.index(name) for name in NAME_COLUMNS if name in header), None)
    if column is None and width == 1:
        column = 0
    if column is None and len(header) == 2:  # of id and label, the label
        column = 1 - header.index("id") if "id" in header else header.index("label") if "label" in header else None
    if column is None and width == 2 and not header:
        codes = [all(is_code(cells[at]) for _, cells in rows if len(cells) > at) for at in (0, 1)]
        column = codes.index(False) if sum(codes) == 1 else None
    if column is None:
        raise UserError(
            f"{str(path)!r} has {width} columns and no header that says which holds the names; begin it with a "
            "line like number,name."
        )
    return [(number, cells[column] if len(cells) > column else "") for number, cells in rows]


def _json_rows(path: str | os.PathLike, text: str) -> list[Row] | None:
    """The names of a JSON list or object; None where it is none, and '[' begins a name."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if str(path).lower().endswith(".json"):
            raise UserError(f"{str(path)!r} is not JSON ({first_line(error)[:100]}).") from None
        return None
    if isinstance(content, list):
        return [(number, _text_of(name, number)) for number, name in enumerate(content, 1)]
    if not isinstance(content, dict) or not content:
        return None
    pairs = _label_names(content)
    if all(_NUMBER.fullmatch(label) for label in pairs):
        pairs = dict(sorted(pairs.items(), key=lambda pair: float(pair[0].replace(",", "."))))
    return [(number, _text_of(name, number)) for number, name in enumerate(pairs.values(), 1)]


def _label_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """{label: name}, also of {name: number} and of a list's {"0": ["n01440764", "tench"]}."""
    numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in content.values())
    if numbers and not all(_NUMBER.fullmatch(key) for key in content):
        return {str(value): key for key, value in content.items()}
    if all(isinstance(value, list) and len(value) == 2 for value in content.values()):
        return {str(value[0]): value[1] for value in content.values()}
    return {str(key): value for key, value in content.items()}


# --- names for labels -----------------------------------------------------------------------------
def is_code(name: str) -> bool:
    """Whether a class name says nothing to a text encoder: a number, a WordNet id."""
    return bool(_NUMBER.fullmatch(name.strip()) or _WORDNET.fullmatch(name.strip()))


def codes(names: Iterable[str]) -> list[str]:
    """Those of the names that are codes: numbers, WordNet ids, and words that are only counted (class_1, c2)."""
    listed = list(names)
    found = [name for name in listed if is_code(name)]
    if found:
        return found
    counted = [_COUNTED.fullmatch(name.strip()) for name in listed]
    stems = {match.group(1).lower() for match in counted if match}
    return listed if len(listed) > 1 and all(counted) and len(stems) == 1 else []


def warn_of_codes(names: Sequence[str], template: str, remedy: str = "--names FILE (names={...} in Python)") -> None:
    """A line where classes are called by codes: the text encoder reads them as they are."""
    found = codes(names)
    if found:
        few = ", ".join(repr(name[:40]) for name in found[:3])
        log.warning(
            "%d of %d classes are called by numbers or codes (%s): the text encoder reads %r. Give them names with %s",
            len(found), len(names), few + (", ..." if len(found) > 3 else ""),
            template.replace("{}", spoken(found[0])), remedy,
        )  # fmt: skip


def names_for(labels: Sequence[Any], given: Mapping[Any, str] | Sequence[str] | str | os.PathLike) -> list[str]:
    """A name for every label.

    Args:
        labels: as the data has them, in order.
        given: {label: name}; names in the order of the labels; or a file of either (JSON, CSV or TSV with two
            columns, a label and a name a line, a name a line). Whole numbers count as places in a plain list.

    Raises:
        UserError: a label without a name, or a file that can't be read.
    """
    where = "names"
    if isinstance(given, (str, os.PathLike)):
        where = repr(str(given))
        given = _read_names(given, [str(label) for label in labels])
    if not isinstance(given, Mapping):
        given = _by_place(labels, list(given), where)
    by_key = {class_key(str(label)): name for label, name in given.items()}
    by_number = {float(key): name for key, name in by_key.items() if re.fullmatch(r"\d{1,9}", key)}
    found = []
    for label in labels:
        key = class_key(str(label))
        name = given.get(label, by_key.get(key))
        if name is None and re.fullmatch(r"\d{1,9}", key):  # 007 is 7
            name = by_number.get(float(key))
        if name is None:
            raise UserError(f"{where} has no class name for the label {label!r}.")
        found.append(str(name))
    return found


def _by_place(labels: Sequence[Any], names: Sequence[str], where: str) -> dict[Any, str]:
    """Names without labels: numbers are places from 0 (or 1), other labels are counted in their order."""
    if all(re.fullmatch(r"\d{1,9}", str(label)) for label in labels):
        numbers = [int(str(label)) for label in labels]
        start = 1 if min(numbers, default=0) >= 1 and max(numbers) == len(names) else 0
        if max(numbers, default=0) - start < len(names):
            return {label: names[number - start] for label, number in zip(labels, numbers)}
    elif len(names) == len(labels):
        return dict(zip(labels, names))
    raise UserError(
        f"{where} holds {len(names)} names, and there are {len(labels)} classes ({str(labels[0])[:40]!r}, ...); "
        "write label,name on each line."
    )


def _read_names(path: str | os.PathLike, labels: Sequence[str]) -> Mapping[str, str] | list[str]:
    """A names file: {label: name} where labels stand in it, else the names in order."""
    text = file_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{str(path)!r} is not JSON ({first_line(error)[:100]}).") from None
        if isinstance(content, dict):
            pairs = _label_names(content)
            return {label: _text_of(name, number) for number, (label, name) in enumerate(pairs.items())}
        return [_text_of(name, number) for number, name in enumerate(content)]
    lines = _lines(text)
    if not lines:
        raise UserError(f"{str(path)!r} holds no name; write label,name on each line.")
    keys = {class_key(label) for label in labels}
    header, rows = _table(path, lines)
    for at in _label_columns(header):
        pairs = {cells[at]: _other(cells, at, header) for _, cells in rows if len(cells) > 1 and len(cells) > at}
        known = sum(class_key(label) in keys or _same_number(label, keys) for label in pairs)
        if known * 2 > min(len(keys), len(pairs) or 1):
            return pairs
    spaced = [re.split(r"\s+", line, maxsplit=1) for _, line in lines]  # n01440764 tench
    pairs = {cells[0]: cells[1] for cells in spaced if len(cells) == 2}
    if pairs and sum(class_key(label) in keys for label in pairs) * 2 > len(keys):
        return pairs
    return read_class_list(path, whole=True)


def _label_columns(header: Sequence[str]) -> list[int]:
    return [at for at, cell in enumerate(header) if cell in LABEL_COLUMNS] or [0, 1]


def _other(cells: Sequence[str], at: int, header: Sequence[str]) -> str:
    """The name in a row whose label stands at `at`."""
    column = next((header.index(name) for name in NAME_COLUMNS if name in header and header.index(name) != at), None)
    column = column if column is not None else (1 if at == 0 else 0)
    return cells[column] if len(cells) > column else ""


def _same_number(label: str, keys: set[str]) -> bool:
    return bool(re.fullmatch(r"\d{1,9}", label)) and any(
        re.fullmatch(r"\d{1,9}", key) and int(key) == int(label) for key in keys
    )


def in_trained_names(dataset: Dataset, labels: Sequence[Any], names: Sequence[str]) -> Dataset:
    """The data set under the names that a method was trained with, where it is called by the labels.

    Args:
        labels: what the training data called the classes; empty where those were their names.
        names: what they were trained under.
    """
    by_label = {class_key(str(label)): name for label, name in zip(labels, names)}
    if not any(class_key(name) in by_label for name in dataset.classnames):
        return dataset
    return named(dataset, {name: by_label.get(class_key(name), name) for name in dataset.classnames})


def named(dataset: Dataset, names: Mapping[Any, str] | Sequence[str] | str | os.PathLike | None) -> Dataset:
    """The data set with names for its classes; what they were called before stands in `labels`.

    Raises:
        UserError: a class without a name, or two with the same.
    """
    from anprompt.data.names import check_classnames

    if names is None:
        return dataset
    found = check_classnames(names_for(dataset.classnames, names))
    parts: dict[str, Any] = {
        part: tuple(replace(item, classname=found[item.label]) for item in getattr(dataset, part))
        for part in ("train", "val", "test")
    }
    return replace(dataset, classnames=tuple(found), labels=dataset.classnames, **parts)
