"""Records may come from anywhere: what is not as records are gives one line, whichever table meets it first."""

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
            f"A record is not as records are ({type(error).__name__}: {said}); it is of another version or was edited. "
            "Run it again."
        ) from error
