"""How large an image may be."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anprompt.data.image_files import Unusable
from anprompt.errors import UserError

MAX_PIXELS = 80_000_000
MAX_SIDE = 250_000  # pixels; Pillow keeps a pointer and a call for every row
LIMIT_VARIABLE = "ANPROMPT_MAX_MEGAPIXELS"


def pixel_limit() -> int:
    """Most pixels to decode where nobody says: `ANPROMPT_MAX_MEGAPIXELS` million, else `MAX_PIXELS`.

    A variable of the environment, so that the processes of a sweep know what their command was told.

    Raises:
        UserError: the variable is not a number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    return megapixels(text, LIMIT_VARIABLE)


def megapixels(value: Any, what: str) -> int:
    """Millions of pixels as a number of pixels.

    Raises:
        UserError: no number above 0 and at most 10,000.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 10_000:
        raise UserError(f"{what} must be a number of megapixels above 0 and up to 10000, not {str(value)[:40]!r}.")
    return max(1, round(number * 1_000_000))


@contextmanager
def limited(max_megapixels: float | None) -> Iterator[None]:
    """Within this block, `pixel_limit()` is this, in this process and in those it starts; None changes nothing."""
    if max_megapixels is None:
        yield
        return
    megapixels(max_megapixels, "max_megapixels")
    before = os.environ.get(LIMIT_VARIABLE)
    os.environ[LIMIT_VARIABLE] = f"{max_megapixels:g}"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(LIMIT_VARIABLE, None)
        else:
            os.environ[LIMIT_VARIABLE] = before


def check_size(width: int, height: int, limit: int, weight: int = 1) -> int:
    """Refuse sizes whose decoding takes too much memory or time.

    Args:
        limit: most pixels. A JPEG, which is decoded small, may have four times as many, a progressive one,
            whose coefficients are all held, twice as many.
        weight: 4 and 2 for these.

    Returns:
        The number of pixels decoded at full size.

    Raises:
        Unusable: too large, or without pixels.
    """
    count = width * height
    if width < 1 or height < 1:
        raise Unusable(f"has no pixels ({width}x{height}); replace or remove it")
    if count > limit * weight:
        raise Unusable(
            f"has {width}x{height} = {count:,} pixels, more than {limit * weight:,}; make it smaller, or raise the "
            f"limit (--max-megapixels {math.ceil(count / weight / 1e6)})"
        )
    if max(width, height) > MAX_SIDE:
        raise Unusable(f"is {width}x{height}; no side may have more than {MAX_SIDE:,} pixels; cut it into parts")
    return count
