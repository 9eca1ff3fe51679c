"""What a calibration may say; asked when one is read from an adapter and when one is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from anprompt.errors import UserError

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0  # where calibration looks for one


def check_calibration(value: Any, where: str) -> None:
    """What calibration keeps in an adapter's record, or None.

    Raises:
        UserError: something else stands there, or numbers that no calibration gives.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: its calibration is not of this form; run 'anprompt calibrate' again.")
    slack = 1 + 1e-9  # the bounds went through log and exp
    low, high = LEAST_TEMPERATURE / slack, MOST_TEMPERATURE * slack
    ranges = {"temperature": (low, high), "threshold": (0.0, 1.0), "accept": (1e-9, 1.0), "pictures": (0, 2**53)}
    for key, (least, most) in ranges.items():
        number: Any = value.get(key)
        if number is None and (key != "temperature" or key not in value):
            continue
        if not is_number(number) or not least <= number <= most:
            raise UserError(
                f"{where}: the {key} {number!r} of its calibration is not a number from {least:.3g} to {most:.3g}; run "
                "'anprompt calibrate' again."
            )
    for key in ("nll", "ece"):
        pair = value.get(key, (0.0, 0.0))
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(is_number(n) and n >= 0 for n in pair):
            raise UserError(f"{where}: its calibration is not of this form; run 'anprompt calibrate' again.")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
