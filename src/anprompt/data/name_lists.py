"""Lists of class names as people write them, and the shapes in which files hold names.

apple,banana,"tiger, adult"      a line: commas, quotes around names that hold one, or a JSON list
list.txt, list.csv, list.json    a name a line; numbered lines; a table with or without a header; JSON
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anprompt.data.names import class_key, spoken
from anprompt.data.text_files import file_text
from anprompt.errors import LONGEST, UserError
from anprompt.utils.files import first_line

log = logging.getLogger("anprompt")

NAME_COLUMNS = ("name", "class", "classname", "class_name", "class name", "names", "classes", "text", "title")
LABEL_COLUMNS = ("label", "labels", "id", "index", "idx", "number", "no", "nr", "code", "wnid", "synset", "class_id", "class id", "label_id", "folder", "key")  # fmt: skip
_COMMENT = re.compile(r"\s+#\s.*$")  # `banana  # yellow`; "size #5" is a name
_NUMBERED = re.compile(r"\s*(\d{1,9})\s*[,;:\t.)]\s*(\S.*)")
_WORDNET = re.compile(r"[nvar]\d{8}")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")

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
            return [text_of(name, number) for number, name in enumerate(listed)]
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


def text_of(name: Any, number: int) -> str:
    if not isinstance(name, str):
        raise UserError(f"The class list holds {str(name)[:40]!r} at place {number}, which is not text.")
    return name


def is_code(name: str) -> bool:
    """Whether a class name says nothing to a text encoder: a number, a WordNet id."""
    return bool(_NUMBER.fullmatch(name.strip()) or _WORDNET.fullmatch(name.strip()))


# --- a file ---------------------------------------------------------------------------------------
def read_class_list(path: str | os.PathLike[str], *, whole: bool = False) -> list[str]:
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


def _rows(path: str | os.PathLike[str]) -> list[Row]:
    text = file_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        found = _json_rows(path, text)
        if found is not None:
            return found
    lines = text_lines(text)
    if len(lines) == 1 and "," in lines[0][1]:
        return [(lines[0][0], name) for name in split_names(lines[0][1])]
    numbered = _in_order(lines)
    if numbered is not None:
        return numbered
    if str(path).lower().endswith((".csv", ".tsv")):
        return _table_rows(path, lines)
    return [(number, _unquoted(line)) for number, line in lines]


def text_lines(text: str) -> list[Row]:
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


def table_of(path: str | os.PathLike[str], lines: Sequence[Row]) -> tuple[list[str], list[tuple[int, list[str]]]]:
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


def _table_rows(path: str | os.PathLike[str], lines: Sequence[Row]) -> list[Row]:
    """The column of names of a table."""
    header, rows = table_of(path, lines)
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


def _json_rows(path: str | os.PathLike[str], text: str) -> list[Row] | None:
    """The names of a JSON list or object; None where it is none, and '[' begins a name."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if str(path).lower().endswith(".json"):
            raise UserError(f"{str(path)!r} is not JSON ({first_line(error)[:100]}).") from None
        return None
    if isinstance(content, list):
        return [(number, text_of(name, number)) for number, name in enumerate(content, 1)]
    if not isinstance(content, dict) or not content:
        return None
    pairs = label_names(content)
    if all(_NUMBER.fullmatch(label) for label in pairs):
        pairs = dict(sorted(pairs.items(), key=lambda pair: float(pair[0].replace(",", "."))))
    return [(number, text_of(name, number)) for number, name in enumerate(pairs.values(), 1)]


def label_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """{label: name}, also of {name: number} and of a list's {"0": ["n01440764", "tench"]}."""
    numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in content.values())
    if numbers and not all(_NUMBER.fullmatch(key) for key in content):
        return {str(value): key for key, value in content.items()}
    if all(isinstance(value, list) and len(value) == 2 for value in content.values()):
        return {str(value[0]): value[1] for value in content.values()}
    return {str(key): value for key, value in content.items()}
