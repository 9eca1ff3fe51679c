"""Names for classes that data calls by numbers or codes."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anprompt.data.name_lists import (
    LABEL_COLUMNS,
    NAME_COLUMNS,
    is_code,
    label_names,
    read_class_list,
    table_of,
    text_lines,
    text_of,
)  # fmt: skip
from anprompt.data.names import check_classnames, class_key, spoken
from anprompt.data.text_files import file_text
from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.utils.files import first_line

log = logging.getLogger("anprompt")

_COUNTED = re.compile(r"([A-Za-z]{0,12}?)[ _-]*\d+")


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


def names_for(labels: Sequence[Any], given: Mapping[Any, str] | Sequence[str] | str | os.PathLike[str]) -> list[str]:
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


def _read_names(path: str | os.PathLike[str], labels: Sequence[str]) -> Mapping[str, str] | list[str]:
    """A names file: {label: name} where labels stand in it, else the names in order."""
    text = file_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{str(path)!r} is not JSON ({first_line(error)[:100]}).") from None
        if isinstance(content, dict):
            pairs = label_names(content)
            return {label: text_of(name, number) for number, (label, name) in enumerate(pairs.items())}
        return [text_of(name, number) for number, name in enumerate(content)]
    lines = text_lines(text)
    if not lines:
        raise UserError(f"{str(path)!r} holds no name; write label,name on each line.")
    keys = {class_key(label) for label in labels}
    header, rows = table_of(path, lines)
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


def named(dataset: Dataset, names: Mapping[Any, str] | Sequence[str] | str | os.PathLike[str] | None) -> Dataset:
    """The data set with names for its classes; what they were called before stands in `labels`.

    Raises:
        UserError: a class without a name, or two with the same.
    """
    if names is None:
        return dataset
    found = check_classnames(names_for(dataset.classnames, names))
    parts: dict[str, Any] = {
        part: tuple(replace(item, classname=found[item.label]) for item in getattr(dataset, part))
        for part in ("train", "val", "test")
    }
    return replace(dataset, classnames=tuple(found), labels=dataset.classnames, **parts)
