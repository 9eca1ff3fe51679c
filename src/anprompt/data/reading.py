"""How a user's folder or table was understood, in lines for people, in a dictionary for records, and in the log."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anprompt.data.images import shown
from anprompt.data.names import class_key
from anprompt.data.walk import LeftOut

if TYPE_CHECKING:
    from anprompt.data.types import Dataset, Item

log = logging.getLogger("anprompt")

PARTS = ("train", "val", "test")
_FIRST = 5  # names in a line before the rest is counted
_TABLE = 12  # classes up to which every class gets its line


@dataclass(frozen=True)
class Reading:
    """What was understood of a folder or a table.

    Attributes:
        source: the folder or table, as given.
        layout: "class folders", "part folders", "metadata", "table", ...
        folder: the folder that is read, where it lies below `source`; else the same.
        parts: the folders of each part, below `source`; empty where there are none.
        unlabelled: folders whose images have no class.
        divided: whether the parts were made by dividing the images.
        decisions: what was decided, one line each.
        warnings: what may make a figure mean something else than expected, one line each.
        left_out: every file and folder that is not read, with the reason.
    """

    source: str
    layout: str
    folder: str
    parts: Mapping[str, tuple[str, ...]]
    unlabelled: tuple[str, ...] = ()
    divided: bool = False
    decisions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def reasons(self) -> list[tuple[str, int]]:
        """Reasons for leaving out with how often they stand, the most frequent first."""
        return Counter(_kind(entry.reason) for entry in self.left_out).most_common()

    def left_out_line(self) -> str:
        """Files and folders left out by reason in one line; empty where there are none."""
        if not self.left_out:
            return ""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.reasons())
        return f"left out: {len(self.left_out)} ({reasons})"


def _kind(reason: str) -> str:
    """A reason without what belongs to one file."""
    if "pixels, more than" in reason:
        return "too many pixels"
    if reason.startswith("unlabelled"):
        return "unlabelled folder"
    if reason.endswith("is read already"):
        return "link to what is read already"
    return re.sub(r"^(is an?|is|has|lies) ", "", re.split(r"[(;,]", reason)[0].strip())


def class_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Images by class and part: {class: {"train": 5, "val": 0, "test": 3}}."""
    counts = {name: dict.fromkeys(PARTS, 0) for name in dataset.classnames}
    for part in PARTS:
        for item in getattr(dataset, part):
            counts[dataset.classnames[item.label]][part] += 1
    return counts


def reading_lines(dataset: Dataset, *, verbose: bool = False) -> list[str]:
    """The reading for people: layout and classes, images by part and class, decisions, what was left out.

    Args:
        verbose: whether every class and every file left out gets its line.
    """
    reading = dataset.reading
    if reading is None:
        return []
    where = f" in {shown(reading.folder)}" if reading.folder != reading.source else ""
    lines = [f"{shown(reading.source)}: {reading.layout}{where}, {_classes(dataset.classnames)}"]
    lines += [f"  {line}" for line in _count_lines(dataset, verbose)]
    lines += [f"  {line}" for line in reading.decisions]
    lines += [f"  note: {line}" for line in reading.warnings]
    if reading.left_out:
        lines.append(f"  {reading.left_out_line()}" + ("" if verbose else "; each with --verbose"))
    if verbose:
        lines += [f"    {_below(entry, reading)}" for entry in reading.left_out]
    return lines


def _classes(names: Sequence[str]) -> str:
    first = ", ".join(names[:_FIRST]) + (", ..." if len(names) > _FIRST else "")
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({first})"


def _count_lines(dataset: Dataset, verbose: bool) -> list[str]:
    reading, counts = dataset.reading, class_counts(dataset)
    assert reading is not None
    totals = {part: len(getattr(dataset, part)) for part in PARTS}
    how = " (divided here, as the data has no parts)" if reading.divided else ""
    lines = ["images: " + ", ".join(f"{part} {totals[part]}" for part in PARTS) + how]
    held = [part for part in PARTS if totals[part]]
    if len(counts) > _TABLE and not verbose:
        for part in held:
            least = min(counts, key=lambda name: counts[name][part])
            most = max(counts, key=lambda name: counts[name][part])
            lines.append(f"{part} per class: {counts[least][part]} ({least}) to {counts[most][part]} ({most})")
        return lines
    width = min(max(map(len, counts)), 30)
    lines += [
        f"{name:{width}}  " + "  ".join(f"{part} {counts[name][part]:>{len(str(totals[part]))}}" for part in held)
        for name in counts
    ]
    return lines


def _below(entry: LeftOut, reading: Reading) -> str:
    return f"{shown(_relative(entry.path, reading.source))}: {entry.reason}"


def _relative(path: str, source: str) -> str:
    return os.path.relpath(path, source) if os.path.isdir(source) and path != source else path


def reading_record(dataset: Dataset) -> dict[str, Any]:
    """The reading as plain values, with paths below the folder, so that it is the same wherever that lies."""
    reading = dataset.reading
    if reading is None:
        return {}
    return {
        "layout": reading.layout,
        "parts": {part: list(folders) for part, folders in reading.parts.items()},
        "divided": reading.divided,
        "images": class_counts(dataset),
        "unlabelled": list(reading.unlabelled),
        "decisions": list(reading.decisions),
        "warnings": list(reading.warnings),
        "left_out": {_relative(entry.path, reading.source): entry.reason for entry in reading.left_out},
    }


def log_reading(dataset: Dataset) -> None:
    """What a caller who prints no reading must know; decisions and single files at the level INFO."""
    reading = dataset.reading
    if reading is None:
        return
    name = shown(reading.source)
    for line in reading.decisions:
        log.info("%s: %s", name, line)
    for line in reading.warnings:
        log.warning("%s: %s", name, line)
    if reading.left_out:
        log.warning("%s: %s", name, reading.left_out_line())
        for entry in reading.left_out:
            log.info("left out: %s", entry)


# --- parts as they are ----------------------------------------------------------------------------
def given_parts(parts: Mapping[str, list[Item]]) -> tuple[dict[str, list[Item]], list[str]]:
    """Parts that the user made, as they are, and what is to be told of those that are missing.

    No image is taken out of a part. Without test, the val images serve for both: they are not trained on,
    and nothing is chosen by them. Without both, nothing is tested.
    """
    full = {part: list(parts.get(part, ())) for part in PARTS}
    told: list[str] = []
    if full["train"] and not full["test"]:
        if full["val"]:
            full["test"] = list(full["val"])
            told.append("no test part: the val images serve for validation and for testing")
        else:
            told.append("no val and no test part: every train image can be trained on, and none is tested")
    return full, told


def lacking_classes(classnames: Sequence[str], parts: Mapping[str, Iterable[Item]]) -> list[str]:
    """Lines about classes without training or without test images, with the nearest name on the other side."""
    counts = {part: Counter(item.label for item in parts[part]) for part in PARTS}
    if not counts["train"] or not counts["test"]:
        return []
    untrained = [name for label, name in enumerate(classnames) if not counts["train"][label]]
    untested = [name for label, name in enumerate(classnames) if not counts["test"][label]]
    lines = []
    for names, what, others in (
        (untrained, "no training images, so it can't be learnt", untested),
        (untested, "no test images, so it isn't tested", untrained),
    ):
        for name in names[:_FIRST]:
            near = nearest(name, others) or (others[0] if len(names) == len(others) == 1 else "")
            lines.append(f"class {name!r} has {what}" + (f" (did you mean {near!r}?)" if near else ""))
        if len(names) > _FIRST:
            lines.append(f"{len(names) - _FIRST} more classes have {what.split(',')[0]}")
    return lines


def nearest(name: str, others: Iterable[str]) -> str:
    """The name among others that a slip of the pen could make of this one, or ""."""
    keys = {class_key(other): other for other in others}
    near = difflib.get_close_matches(class_key(name), keys, n=1, cutoff=0.6)
    return keys[near[0]] if near else ""
