"""Copies that make a figure mean something else: an image under two classes, or trained on and tested on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from anprompt.data.identity import contents
from anprompt.data.images import shown
from anprompt.data.types import Item


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


def copy_warnings(parts: Mapping[str, Sequence[Item]]) -> list[str]:
    """A line for images with the same bytes under two classes, and one for those on both sides of a test.

    Args:
        parts: the items of "train", "val" and "test".
    """
    rows = [(part, item) for part, items in parts.items() for item in items]
    same: dict[str, list[tuple[str, Item]]] = {}
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


def _first(groups: Sequence[Sequence[tuple[str, Item]]], *, by_class: bool) -> str:
    """The first pair that differs in class or in part, with what it differs in."""
    group = groups[0]
    (part, item), *others = group
    other_part, other = next(
        row for row in others if (row[1].label != item.label if by_class else row[0] != part)
    )
    words = (item.classname, other.classname) if by_class else (part, other_part)
    return f"the first: {shown(item.path)} ({words[0]}) and {shown(other.path)} ({words[1]})"


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None
