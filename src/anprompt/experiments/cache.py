"""What the runs of a sweep keep for each other, within a budget of bytes."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any

from anprompt.utils.byte_cache import ByteCache

MOST_BYTES = 8 * 2**30


def default_budget(jobs: int = 1) -> int:
    """A quarter of the memory shared out among the jobs, and no more than 8 GiB each."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such figure on this system
        return MOST_BYTES // 8
    return min(MOST_BYTES, memory // (4 * max(jobs, 1)))


class Shelf:
    """Values under keys within a budget of bytes.

    A sweep goes through all conditions of a data set again and again, one method after the other. So a
    full shelf keeps what it has (forgetting the oldest would forget each thing just before it is needed),
    and only what belongs to other data sets makes room.
    """

    def __init__(self, budget: int) -> None:
        self._held: ByteCache[tuple[str, Hashable], Any] = ByteCache(budget)

    @property
    def used(self) -> int:
        """Bytes it holds."""
        return self._held.used

    def get(self, group: str, key: Hashable) -> Any:
        """The value, or None."""
        return self._held.get((group, key))

    def put(self, group: str, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of `size` bytes if there is, or can be made, room."""
        self._held.put((group, key), value, size, may_go=lambda held: held[0] != group)
