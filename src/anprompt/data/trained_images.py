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


def _known(record: Any) -> set[str] | None:
    """The marks of a record; None where it has none, or what no mark is."""
    kept = record.get(KEY) if isinstance(record, Mapping) else None
    text = kept.get("marks") if isinstance(kept, Mapping) else None
    return set(text.split()) if isinstance(text, str) and _MARKS.fullmatch(text) else None


def trained_count(record: Any) -> int:
    """How many images of different content the record knows of as trained on."""
    return len(_known(record) or ())


def trained_among(record: Any, items: Sequence[Item]) -> int | None:
    """How many of the images were trained on, byte for byte; None where the record does not say."""
    known = _known(record)
    return None if known is None else sum(mark in known for mark in marks(items))
