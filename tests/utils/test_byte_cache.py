"""The cache in memory: what it keeps is what a plain list of (key, size), the least recently used first, says."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anprompt.utils.byte_cache import ByteCache

KEYS = st.tuples(st.sampled_from("ab"), st.integers(0, 5))
SIZES = st.integers(0, 60)
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "nothing may go": {"may_go": None},
    "others may go": {"may_go": lambda key: key[0] != "a"},
    "kept whatever it takes": {"always": True},
    "kept, and some stay": {"always": True, "may_go": lambda key: key[0] != "a"},
}
CALLS = st.lists(st.tuples(st.sampled_from(["get", *RULES]), KEYS, SIZES), max_size=40)


class Model:
    """The same by the simplest means."""

    def __init__(self, budget: int, entries: int | None) -> None:
        self.budget, self.entries = budget, entries
        self.held: list[tuple[Any, int]] = []

    def touch(self, key: Any) -> bool:
        found = [entry for entry in self.held if entry[0] == key]
        self.held = [entry for entry in self.held if entry[0] != key] + found
        return bool(found)

    def fits(self, held: list[tuple[Any, int]]) -> bool:
        return sum(size for _, size in held) <= self.budget and (self.entries is None or len(held) <= self.entries)

    def put(self, key: Any, size: int, may_go: Any = lambda key: True, always: bool = False) -> bool:
        if self.touch(key):
            return True
        left = [*self.held, (key, size)]
        for entry in self.held:
            if self.fits(left):
                break
            if may_go and may_go(entry[0]):
                left.remove(entry)
        if self.fits(left) or always:
            self.held = left
            return True
        return False


@given(st.integers(0, 100), st.none() | st.integers(1, 4), CALLS)
def test_it_keeps_what_a_plain_list_would(budget: int, entries: int | None, calls: list) -> None:
    cache: ByteCache[Any, Any] = ByteCache(budget, entries)
    model = Model(budget, entries)
    for word, key, size in calls:
        if word == "get":
            assert (cache.get(key) == ("value", key)) == model.touch(key)
        else:
            assert cache.put(key, ("value", key), size, **RULES[word]) == model.put(key, size, **RULES[word])
        assert list(cache) == [entry[0] for entry in model.held] and len(cache) == len(model.held)
        assert cache.used == sum(entry[1] for entry in model.held)
        assert all((key in cache) for key, _ in model.held)


@given(st.integers(0, 100), st.lists(st.tuples(KEYS, SIZES), max_size=30))
def test_it_never_exceeds_its_budget(budget: int, puts: list) -> None:
    cache: ByteCache[Any, Any] = ByteCache(budget)
    for key, size in puts:
        kept = cache.put(key, size, size)
        assert cache.used <= budget and kept == (key in cache) and (kept or size > budget)
        assert sum(cache.get(key) or 0 for key in cache) == cache.used


def test_a_smaller_budget_holds_from_the_next_value_on() -> None:
    cache: ByteCache[str, int] = ByteCache(10)
    cache.put("a", 1, 5)
    cache.put("b", 2, 5)
    cache.budget = 5
    assert list(cache) == ["a", "b"]
    cache.put("c", 3, 1)
    assert list(cache) == ["c"]


@pytest.mark.parametrize("rule", ["plain", "kept whatever it takes"])
def test_many_threads_leave_it_whole(rule: str) -> None:
    cache: ByteCache[int, int] = ByteCache(50, 20)
    wrong: list[Any] = []

    def work(number: int) -> None:
        try:
            for step in range(300):
                key = (number * 7 + step) % 40
                cache.put(key, key, key % 9, **RULES[rule])
                if cache.get(step % 40) not in (None, step % 40):
                    wrong.append(step)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.used <= 50 and len(cache) <= 20
    assert cache.used == sum(key % 9 for key in cache)
