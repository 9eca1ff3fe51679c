"""The examples in docstrings of the stable face and of small pure helpers give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "anprompt.data.names",
    "anprompt.data.part_names",
    "anprompt.errors",
    "anprompt.evaluation.statistics",
    "anprompt.methods.create",
    "anprompt.methods.presets",
    "anprompt.methods.registry",
    "anprompt.noise.image",
    "anprompt.noise.seeds",
    "anprompt.noise.text",
    "anprompt.testing",
    "anprompt.testing.backbones",
    "anprompt.testing.methods",
    "anprompt.testing.protocols",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0 and found.failed == 0
