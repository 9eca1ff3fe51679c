"""Values under keys within a budget of bytes; the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def anything(key: Any) -> bool:
    """Every key may make room for a new one."""
    return True


class ByteCache(Generic[Key, Value]):
    """The one cache in memory: decoded images, encoder outputs, text features of class lists. Safe between threads.

    Equal keys must mean equal values: a key that is there keeps its value, and counts as used.

    Args:
        budget: bytes of all values together; it may be changed, and holds from the next `put` on.
        entries: most values; None for any number.

    Attributes:
        used: bytes of the values kept, as `put` was told them.
    """

    def __init__(self, budget: int, entries: int | None = None) -> None:
        self.budget, self.entries, self.used = budget, entries, 0
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, which counts as used now; None if it is not there."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(
        self,
        key: Key,
        value: Value,
        size: int,
        *,
        may_go: Callable[[Key], bool] | None = anything,
        always: bool = False,
    ) -> bool:
        """Keep a value if room for it is there or can be made; else everything stays as it is.

        Args:
            size: bytes of the value, at least 0.
            may_go: which keys may make room for this one; None for none of them.
            always: keep it even where there is not room enough, when all that may go has gone.

        Returns:
            Whether the key is there now.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return True
            going = self._going(size, may_go)
            if going is None and not always:
                return False
            if going is None:
                going = [old for old in self._held if may_go and may_go(old)]
            for old in going:
                self.used -= self._held.pop(old)[1]
            self._held[key] = value, size
            self.used += size
            return True

    def _going(self, size: int, may_go: Callable[[Key], bool] | None) -> list[Key] | None:
        """The least recently used keys that make room for `size` bytes; None if all that may go are too few."""
        used, count, going = self.used + size, len(self._held) + 1, list[Key]()
        most = count if self.entries is None else self.entries
        for key, (_, freed) in self._held.items():
            if (used <= self.budget and count <= most) or size > self.budget or may_go is None:
                break
            if may_go(key):
                going.append(key)
                used, count = used - freed, count - 1
        return going if used <= self.budget and count <= most else None

    def __contains__(self, key: object) -> bool:
        """Whether the key is there; it does not count as used."""
        with self._lock:
            return key in self._held

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    def __iter__(self) -> Iterator[Key]:
        """The keys of this moment, the least recently used first."""
        with self._lock:
            return iter(list(self._held))
