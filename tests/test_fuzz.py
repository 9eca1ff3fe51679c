"""Fuzzing of every parser: whatever comes, a value or one printable line, never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anprompt.backbones import Backbone

from . import fuzzing
from .fuzzing import ANY_JSON, TARGETS, Target, World, attempt, mutated

EXAMPLES = {"record": 25, "adapter config": 40, "official checkpoint": 30}


@pytest.fixture(scope="module")
def world(tiny_backbone: Backbone, adapter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"), tiny_backbone, adapter_folder)


@pytest.mark.parametrize("name", TARGETS)
def test_a_value_or_one_printable_line(name: str, world: World) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES.get(name, 60), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs(world))
    def check(value: Any) -> None:
        attempt(target, world, value)

    check()


@pytest.mark.parametrize("name", ["adapter config", "split", "descriptions", "record"])
def test_what_is_sound_is_read(name: str, world: World) -> None:
    """The property above would hold too if everything were refused."""
    sound = {
        "adapter config": world.config, "split": fuzzing.SPLIT, "descriptions": fuzzing.DESCRIPTIONS,
        "record": fuzzing.RECORD,
    }  # fmt: skip
    assert attempt(TARGETS[name], world, json.dumps(sound[name]))


def test_the_fuzzer_finds_what_is_wrong(world: World) -> None:
    """A parser that trusts its input does not pass."""
    naive = Target(lambda w: st.just(""), lambda w, value: value["seed"] + 1)

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, report_multiple_bugs=False)
    @given(mutated({"seed": 1}) | ANY_JSON)
    def check(value: Any) -> None:
        attempt(naive, world, value)

    with pytest.raises((TypeError, KeyError, IndexError)):
        check()
