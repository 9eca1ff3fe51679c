"""When memory runs out: smaller chunks where the result stays the same, then one clear line.

scores = in_halves(compute, indices)        pictures at a time, fewer where all do not fit
parts = LessMemory()(step, ...)             a training step, its class lists in smaller parts
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.prompting.shared_text import saved_bytes, text_memory
from anprompt.utils.files import first_line

log = logging.getLogger("anprompt")

LEAST_SAVED = 16 << 20  # bytes of text activations below which smaller parts gain nothing
REMEDY = (
    "Lower --batch-size, use --autocast or --dtype bf16 or a smaller backbone, fewer classes at a time, or a machine with "
    "more memory."
)
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the CPU or on a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("can't allocate memory", "out of memory", "cannot allocate memory")
    )


def out_of_memory(error: BaseException) -> UserError:
    """The line to show: what was asked for, and what to set."""
    said = first_line(error)[:160].rstrip(".")
    return UserError(f"Out of memory ({said}). {REMEDY} What is finished is kept.")


def in_halves(
    compute: Callable[[Tensor], Result],
    indices: Tensor,
    join: Callable[[list[Result]], Result] = torch.cat,  # type: ignore[assignment]
) -> Result:
    """`compute(indices)`, rows in order; where memory runs out, of each half by itself, joined.

    Raises:
        UserError: one index alone does not fit.
    """
    try:
        return compute(indices)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(indices) < 2:
            raise out_of_memory(error) from error
    log.info("out of memory with %d pictures at a time; going on with half as many", len(indices))
    _give_back()
    half = (len(indices) + 1) // 2
    return join([in_halves(compute, part, join) for part in indices.split(half)])


class LessMemory:
    """Does a step; where memory runs out, does it and all later ones with text activations in smaller parts.

    That is exact: `sharing.text_memory`.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def __call__(self, step: Callable[..., Result], *args: Any) -> Result:
        """`step(*args)`, a forward and backward pass that may be started again from the beginning.

        Raises:
            UserError: smaller parts don't help either.
        """
        while True:
            limit = saved_bytes() if self.limit is None else self.limit
            try:
                with text_memory(limit):
                    return step(*args)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if limit <= LEAST_SAVED:
                    raise out_of_memory(error) from error
            self.limit = max(limit // 8, LEAST_SAVED)
            log.info("out of memory; going on with %d MB of text activations at a time", self.limit >> 20)
            _give_back()


def _give_back() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
