"""docs/api.md lists what is stable; each name there has a docstring that says what a caller needs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import anprompt

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(anprompt[\w.]*)` \| (.*?) \|", re.MULTILINE)
SHAPE = re.compile(r"\[[^\[\]]*\]")


def stable() -> Iterator[tuple[str, Any]]:
    """Qualified names and objects of the page's table."""
    for module, cell in ROW.findall(PAGE):
        names = anprompt.__all__ if "__all__" in cell else re.findall(r"`(\w+)`", cell)
        assert names, module
        for name in names:
            yield f"{module}.{name}", getattr(importlib.import_module(module), name)


def callables(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The object, and what a class defines itself in public."""
    yield name, value
    if inspect.isclass(value):
        for key, member in vars(value).items():
            plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if not key.startswith("_") and (
                inspect.isfunction(plain) or isinstance(plain, (property, cached_property))
            ):
                yield f"{name}.{key}", plain


EVERYTHING = {name: value for top, one in stable() for name, value in callables(top, one) if not isinstance(one, str)}


def raises(function: Callable) -> bool:
    """Whether the function itself raises something new."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def faults(value: Any) -> list[str]:
    """What the docstring leaves out."""
    doc = inspect.getdoc(value) or ""  # that of the base class counts for a method that overrides one
    if len(doc.split()) < 3:
        return ["no docstring"]
    if not inspect.isfunction(inspect.unwrap(value)) if callable(value) else True:
        return []
    function = inspect.unwrap(value)
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    found = (
        [f"no word about {p.name!r}" for p in given if not re.search(rf"\b{p.name}\b", doc)] if len(given) > 1 else []
    )
    written = [str(p.annotation) for p in given] + [str(signature.return_annotation)]
    if any(re.search(r"Tensor|ndarray", text) for text in written) and not SHAPE.search(doc):
        found.append("no shape")
    if "Args:" in doc and str(signature.return_annotation) != "None" and "Returns:" not in doc:
        found.append("Args without Returns")
    if raises(function) and "Raises:" not in doc:
        found.append("raises without Raises")
    return found


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_stable_name_says_what_a_caller_needs(name: str) -> None:
    assert faults(EVERYTHING[name]) == []


def test_the_table_is_of_some_size_and_names_the_face() -> None:
    assert {f"anprompt.{name}" for name in anprompt.__all__ if name != "__version__"} <= EVERYTHING.keys()
    assert len(EVERYTHING) > 80


def test_what_is_left_out_is_noticed() -> None:
    def short(x: Any) -> None: ...

    def partly(first: int, second: int) -> int:
        """Adds what is given.

        Args:
            first: a number.
        """
        raise ValueError(first)

    assert faults(short) == ["no docstring"]
    assert faults(partly) == ["no word about 'second'", "Args without Returns", "raises without Raises"]
