"""Records may come from anywhere: one without the fields of a record is refused in one line, by whichever table reads it first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from anprompt.errors import UserError
from anprompt.utils.files import first_line


@contextlib.contextmanager
def sound_records() -> Iterator[None]:
    """Within, or around a decorated function: parts that are missing or of another kind are a `UserError`.

    Raises:
        UserError: naming what was met; `--debug` shows where.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        said = first_line(error)[:120]
        raise UserError(
            f"A run record lacks a field, or has one of another kind ({type(error).__name__}: {said}); it is of another "
            "version or was edited. Run it again."
        ) from error
