"""Copies that make a figure mean something else: an image under two classes, or trained on and tested on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from anprompt.data.identity import contents, look_up
from anprompt.data.images import shown
from anprompt.data.look_alikes import MOST_COMPARED, look_alikes
from anprompt.data.types import Item

log = logging.getLogger("anprompt")

Row = tuple[str, Item]  # a part, and an image in it


def content_where_sizes_meet(paths: Sequence[str]) -> list[str]:
    """The content hash of files whose size another one has; "" for all others, which need not be read."""
    sizes: dict[int, list[int]] = {}
    for index, path in enumerate(paths):
        size = _size(path)
        if size is not None:
            sizes.setdefault(size, []).append(index)
    asked = [index for group in sizes.values() if len(group) > 1 for index in group]
    found = [""] * len(paths)
    for index, content in zip(asked, contents([paths[index] for index in asked])):
        found[index] = content
    return found


def learn(paths: Sequence[str]) -> None:
    """Read the files once for all that is asked of them here and in `division`."""
    if len(paths) <= MOST_COMPARED:
        look_up(paths, small=True)


def copy_warnings(parts: Mapping[str, Sequence[Item]]) -> list[str]:
    """A line each for images under two classes and on both sides of a test: with the same bytes, and that look the same.

    Those that look the same (re-encoded, resized) are told and never moved: how an image is decoded differs from
    machine to machine, and a division must not.

    Args:
        parts: the items of "train", "val" and "test".
    """
    rows = [(part, item) for part, items in parts.items() for item in items]
    return [*_equal_bytes(rows), *_equal_looks(rows)]


def _equal_bytes(rows: Sequence[Row]) -> list[str]:
    same: dict[str, list[Row]] = {}
    for row, content in zip(rows, content_where_sizes_meet([item.path for _, item in rows])):
        if content:
            same.setdefault(content, []).append(row)
    groups = [group for group in same.values() if len(group) > 1]
    torn = [group for group in groups if len({item.label for _, item in group}) > 1]
    leaked = [group for group in groups if {"train"} < {part for part, _ in group}]
    lines = []
    if torn:
        lines.append(
            f"{len(torn)} image{'s stand' if len(torn) > 1 else ' stands'} under two classes with the same bytes, "
            f"{_first(torn, by_class=True)}; only one can be right: remove the wrong copies"
        )
    if leaked:
        lines.append(
            f"{len(leaked)} image{'s are' if len(leaked) > 1 else ' is'} trained on and tested or validated on, "
            f"{_first(leaked, by_class=False)}; a figure on these says nothing: remove the copies from one part"
        )
    return lines


def _equal_looks(rows: Sequence[Row]) -> list[str]:
    if len(rows) > MOST_COMPARED:
        log.info("re-encoded copies are not looked for among more than %d images", MOST_COMPARED)
        return []
    paths = [item.path for _, item in rows]
    sides = [2 * item.label + (part == "train") for part, item in rows]
    pairs = look_alikes(paths, sides)
    among = sorted({index for pair in pairs for index in pair})
    content = dict(zip(among, contents([paths[index] for index in among])))
    pairs = [(one, other) for one, other in pairs if content[one] != content[other]]
    for one, other in pairs:
        log.info("%s and %s look the same", shown(paths[one]), shown(paths[other]))
    torn = [(rows[one], rows[other]) for one, other in pairs if rows[one][1].label != rows[other][1].label]
    leaked = [(rows[one], rows[other]) for one, other in pairs if sides[one] % 2 != sides[other] % 2]
    lines, count = [], len(torn)
    if torn:
        lines.append(
            f"{count} pair{'s' if count > 1 else ''} of images under two classes look{'' if count > 1 else 's'} the same "
            f"(re-encoded or resized), {_first(torn, by_class=True)}; only one class can be right: remove the wrong copies"
        )
    if leaked:
        held = len({item.path for pair in leaked for part, item in pair if part != "train"})
        lines.append(
            f"{held} image{'s' if held > 1 else ''} to test or validate on look{'' if held > 1 else 's'} like one that is "
            f"trained on (re-encoded or resized), {_first(leaked, by_class=False)}; a figure on these says little: "
            "remove the copies from one part"
        )
    return lines


def _first(groups: Sequence[Sequence[Row]], *, by_class: bool) -> str:
    """The first pair that differs in class or in part, with what it differs in."""
    group = groups[0]
    (part, item), *others = group
    other_part, other = next(row for row in others if (row[1].label != item.label if by_class else row[0] != part))
    words = (item.classname, other.classname) if by_class else (part, other_part)
    return f"the first: {shown(item.path)} ({words[0]}) and {shown(other.path)} ({words[1]})"


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None
