"""The one exception that means "the input is wrong", and the wording helpers for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 100  # characters of a wrong value that are repeated


class UserError(ValueError):
    """Input a person can mend. The command line prints it as one line and exits with code 2."""


class OutOfMemory(UserError):
    """A sound input for which memory is short."""


class NotFinite(UserError):
    """Answers that are NaN or Inf: the model is broken, or its precision too small; never the request's fault."""


def choices(kind: str, value: object, available: Iterable[object]) -> UserError:
    """`Unknown method 'mapel'. Did you mean 'maple'? Available: ...` as an error to raise.

    Args:
        kind: what was asked for, in the singular ("method", "embedded data set").
        value: what the user wrote.
        available: what exists, in the order to print it.

    Returns:
        The error, not raised yet.

    Examples:
        >>> str(choices("method", "mapel", ["coop", "maple"]))
        "Unknown method 'mapel'. Did you mean 'maple'? Available: coop, maple."
    """
    names = [str(name) for name in available]
    near = difflib.get_close_matches(str(value)[:LONGEST], names, n=1)
    asked = str(value) if len(str(value)) <= LONGEST else str(value)[:LONGEST] + "..."
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return UserError(f"Unknown {kind} {asked!r}.{hint} Available: {shown or 'none'}.")
