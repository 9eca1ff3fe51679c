"""Which images an adapter was trained on: marks of their contents in its record, so that a test can tell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anprompt.data.identity import identities
from anprompt.data.types import Item

KEY = "image_marks"  # in an adapter's record
MOST = 50_000  # images that are written down: a megabyte of marks
_DIGITS = 16  # of sha256: among a million images, the odds that two share a mark are 1 to 37 million
_MARKS = re.compile(rf"(?:[0-9a-f]{{{_DIGITS}}}(?: |$))*")


def marks(items: Sequence[Item]) -> list[str]:
    """A mark of each image's content (of its key, where it is no file)."""
    return [hashlib.sha256(one.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS] for one in identities(items)]


def to_record(items: Sequence[Item]) -> dict[str, str]:
    """What an adapter keeps of the images that it was trained on, at most `MOST`.

    Marks tell whether an image at hand was among them. They do not tell what was on it.
    """
    return {"marks": " ".join(sorted(set(marks(items))))}


def trained_among(record: Any, items: Sequence[Item]) -> int | None:
    """How many of the images were trained on, byte for byte; None where the record does not say."""
    kept = record.get(KEY) if isinstance(record, Mapping) else None
    text = kept.get("marks") if isinstance(kept, Mapping) else None
    if not isinstance(text, str) or not _MARKS.fullmatch(text):
        return None
    known = set(text.split())
    return sum(mark in known for mark in marks(items))


def holds_trained(record: Any, items: Sequence[Item]) -> bool:
    """Whether these are the data that was trained on: at least half of the trained images are among them."""
    found = trained_among(record, items)
    return bool(found) and 2 * (found or 0) >= len(set(record[KEY]["marks"].split()))
