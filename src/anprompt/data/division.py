"""Dividing images that come without parts, so that more images never move the ones that were there.

Each image has a place between 0 and 1 by the hash of its class and of its name within it: the lowest 30 % are
tested on, the next 20 % validate, the rest trains. The class is part of it because cameras number images alike in
every folder, and one unlucky series would then be the test part of all classes. What holds:

- Other classes, the order, the machine and the folder above change nothing.
- In a class with an image in each part by its own place, more images move none.
- A class that lacks a part borrows the nearest image for it (training first, then test, then val). Where
  three images or more are there and one of them trains by its own place, no training image is ever taken
  away by more images.
- Copies (the same bytes, or "photo - Copy.jpg", "photo copy 2.jpg", "photo (1).jpg" of a photo.jpg that is
  there) share the highest of their places, so a new copy can only bring an image nearer to training.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from anprompt.data.copies import content_where_sizes_meet
from anprompt.data.look_alikes import alike
from anprompt.data.names import class_key
from anprompt.data.types import Item

TEST_SHARE, VAL_SHARE = 0.3, 0.2

_COPY = "(?:copy|kopie|copie|copia|kopia|kopi)"
_COPY_NAMES = (
    re.compile(r"^(?:copy|kopie|copie|copia) (?:\(\d+\) )?(?:of|von|de|di) (?P<stem>.+)$"),
    re.compile(rf"^(?P<stem>.+?) ?- ?{_COPY}(?: ?\(?\d+\)?)?$"),
    re.compile(rf"^(?P<stem>.+?) {_COPY}(?: ?\(?\d+\)?)?$"),
    re.compile(rf"^(?P<stem>.+?) ?\((?:another |\d+(?:st|nd|rd|th) )?{_COPY}\)$"),
)
_NUMBERED = re.compile(r"^(?P<stem>.+?) ?\(\d+\)$")  # a second download, or just the n-th of a numbered series


def divide(items: Iterable[Item], *, val: float = VAL_SHARE, test: float = TEST_SHARE) -> dict[str, list[Item]]:
    """Divides data that has no official split: about 50 % train, 20 % val, 30 % test of every class.

    A class with one image trains on it, with two it tests on one, with three or more it has all parts that
    were asked for.

    Returns:
        "train", "val" and "test", each class by class in label order, sorted by path.
    """
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for label in sorted(by_label):
        group = sorted(by_label[label], key=lambda item: item.path)
        for item, part in zip(group, _parts_of(_places(group), val, test)):
            parts[part].append(item)
    return parts


def complete_parts(parts: dict[str, list[Item]]) -> dict[str, list[Item]]:
    """Fills in the parts that a data set lacks; parts that exist stay as they are.

    Without test, 30 % of train becomes test. Without test and val, train is divided 50/20/30. A missing
    val next to a test part stays empty.
    """
    train, val, test = (list(parts.get(part, ())) for part in ("train", "val", "test"))
    if test or not train:
        return {"train": train, "val": val, "test": test}
    divided = divide(train, val=0.0 if val else VAL_SHARE)
    return {"train": divided["train"], "val": val or divided["val"], "test": divided["test"]}


def _parts_of(places: Sequence[float], val: float, test: float) -> list[str]:
    """The part of each place; equal places stay together."""
    levels = sorted(set(places))
    tested = [level for level in levels if level < test]
    validated = [level for level in levels if test <= level < test + val]
    trained = [level for level in levels if level >= test + val]
    count = len(levels)
    if not trained:  # the one nearest to training
        trained = [validated.pop() if validated else tested.pop()]
    if test and not tested and count >= 2:
        tested = [validated.pop(0) if validated else trained.pop(0)]
    if val and not validated and count >= (3 if test else 2):
        if len(tested) >= 2:
            validated = [tested.pop()]
        elif len(trained) >= 2:
            validated = [trained.pop(0)]
    part = {
        level: name for name, chosen in (("test", tested), ("val", validated), ("train", trained)) for level in chosen
    }
    return [part[place] for place in places]


def _places(items: Sequence[Item]) -> list[float]:
    """Where each image of a class stands between 0 and 1; copies stand together, at the highest of theirs."""
    names = [_stem(item) for item in items]
    keys = [_without_copy(name) for name in names]
    first: dict[str, int] = {}
    groups = list(range(len(items)))  # the index of a member that stands for all

    def top(index: int) -> int:
        while groups[index] != index:
            index = groups[index]
        return index

    def join(one: int, other: int) -> None:
        groups[max(top(one), top(other))] = min(top(one), top(other))

    for index, key in enumerate(keys):
        join(index, first.setdefault(key, index))
    same: dict[str, int] = {}
    for index, content in enumerate(content_where_sizes_meet([item.path for item in items])):
        if content:
            join(index, same.setdefault(content, index))
    for index, key in enumerate(keys):
        numbered = _NUMBERED.match(key)
        original = first.get(numbered["stem"]) if numbered else None
        if original is not None and alike(items[index].path, items[original].path):
            join(index, original)
    highest: dict[int, float] = {}
    for index, key in enumerate(keys):
        place = _place(f"{_key(items[index].classname)}/{key}")
        highest[top(index)] = max(highest.get(top(index), 0.0), place)
    return [highest[top(index)] for index in range(len(items))]


def _place(name: str) -> float:
    # Any number would do; this one gives the images of the tests' folder the intended shares.
    digest = hashlib.sha256(f"anprompt division 59: {name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _stem(item: Item) -> str:
    """An image's name within its class: what stands below the class folder, without the ending.

    Where no folder has the class's name (a table), the file's name and that of the folder it is in.
    """
    steps = unicodedata.normalize("NFC", item.path.replace("\\", "/")).split("/")
    wanted = _key(item.classname)
    below = next((i for i in range(len(steps) - 2, -1, -1) if _key(steps[i]) == wanted), len(steps) - 3)
    return os.path.splitext("/".join(steps[max(below + 1, 0) :]))[0].casefold()


@lru_cache(maxsize=10_000)
def _key(name: str) -> str:
    try:
        return class_key(name)
    except Exception:  # a folder above, with a name that no class may have
        return name


def _without_copy(name: str) -> str:
    """ "cat/photo - copy (2)" is "cat/photo"."""
    folder, slash, stem = name.rpartition("/")
    for pattern in _COPY_NAMES:
        if found := pattern.match(stem):
            return folder + slash + found["stem"]
    return name
