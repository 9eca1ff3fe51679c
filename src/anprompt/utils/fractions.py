"""Numbers as people write them: `2/255`."""

from __future__ import annotations

import re

from anprompt.errors import UserError

_FRACTION = re.compile(r"\d{1,6}(\.\d{1,12})?(/\d{1,6})?|\.\d{1,12}|\d(\.\d{1,12})?e-\d")


def fraction(text: str) -> float:
    """`2/255` or `0.0078` as a number.

    Args:
        text: not negative.

    Returns:
        Its value.

    Raises:
        UserError: something else.

    Examples:
        >>> fraction("51/255")
        0.2
    """
    word = text.strip().lower()
    if not _FRACTION.fullmatch(word):
        raise UserError(f"{text[:40]!r} is not a number or a fraction like 2/255.")
    over, _, under = word.partition("/")
    if under and not int(under):
        raise UserError(f"{text[:40]!r} divides by zero.")
    return float(over) / (float(under) if under else 1.0)
