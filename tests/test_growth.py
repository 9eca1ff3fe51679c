"""No parser of foreign input takes more than thrice the time for twice the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from anprompt.backbones import Backbone

from . import growth
from .fuzzing import World

PLACES = [
    "class list", "config", "table", "split", "synset names", "descriptions", "preset", "condition", "--set", "template",
    "record", "request", "form", "content type", "terminal", "host", "image",
]  # fmt: skip


@pytest.fixture(scope="module")
def cases(tiny_backbone: Backbone, adapter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return growth.cases(World(tmp_path_factory.mktemp("growth"), tiny_backbone, adapter_folder))


@pytest.mark.parametrize("place", PLACES)
def test_twice_the_input_takes_at_most_thrice_the_time(place: str, cases: dict[str, Any]) -> None:
    mine = [name for name in cases if name.startswith(place)]
    if place == "record":  # each renders a report: a few of the shapes
        mine = mine[::4]
    assert mine
    slow = {}
    for name in mine:
        ratio, at = growth.growth(*cases[name], sizes=growth.SIZES[2::3])  # eight times the input from size to size
        if ratio > growth.MOST:
            slow[name] = f"{ratio:.1f} times at {at}"
    assert not slow


@pytest.mark.parametrize(("step", "sizes"), [(4, growth.SIZES[3:5]), (16, growth.SIZES[2::3])])
def test_what_grows_faster_is_found(step: int, sizes: tuple[int, ...]) -> None:
    """A square of 0.13 seconds at 65,536 characters and less is found between the sizes that are tried here."""

    def quadratic(text: str) -> int:
        return sum(text[i:].count("a") for i in range(0, len(text), step))

    ratio, at = growth.growth(quadratic, lambda n: "a" * n, sizes=sizes)
    assert ratio > growth.MOST, at


@pytest.mark.parametrize("sizes", [growth.SIZES[4:7], growth.SIZES[2::3]])
def test_what_grows_in_step_is_not_found(sizes: tuple[int, ...]) -> None:
    ratio, at = growth.growth(lambda text: [sorted(text) for _ in range(8)], lambda n: "ab" * (n // 2), sizes=sizes)
    assert 0 < ratio <= growth.MOST, at
