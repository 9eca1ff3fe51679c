"""docs/security.md and docs/faults.md: every claim names the test that holds it (`<!-- test: file::name ... -->`)."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- test: ([^>]*?) -->")


@cache
def names(file: str) -> frozenset[str]:
    """Test functions of a file; none where it is not there."""
    path = ROOT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def claims(text: str, tables: int, headings: tuple[str, ...] = ()) -> list[str]:
    """Rows of the first tables, paragraphs that begin with bold words below the headings, bold list items before a table.

    Args:
        tables: which table from 1 on, counted from the top of the page, makes claims.
    """
    blocks = re.split(r"\n\s*\n", text)
    rows = [block.split("\n")[2:] for block in blocks if block.startswith("|")]
    found = rows[tables - 1]
    below = ""
    for block in blocks:
        if block.startswith("#"):
            below = block.lstrip("# ").split("\n")[0]
        elif block.startswith("- **") and below not in ("What does not",):
            found += re.split(r"\n(?=- )", block)
        elif block.startswith("**") and below in headings:
            found.append(block)
    return found


def faulty(found: list[str]) -> list[str]:
    """Claims without a test, and tests that do not exist."""
    wrong = []
    for claim in found:
        tests = " ".join(MARK.findall(claim)).split()
        wrong += [] if tests else [f"no test: {claim[:60]!r}"]
        for test in tests:
            file, _, name = test.partition("::")
            if not name.startswith("test_") or name not in names(file):
                wrong.append(f"no such test: {test}")
    return wrong


@pytest.mark.parametrize(
    ("page", "table", "headings", "least"), [("security.md", 2, ("What holds",), 16), ("faults.md", 1, (), 25)]
)
def test_every_claim_has_a_test_that_exists(page: str, table: int, headings: tuple[str, ...], least: int) -> None:
    found = claims((ROOT / "docs" / page).read_text(encoding="utf-8"), table, headings)
    assert len(found) >= least, "the page is read otherwise than it is written"
    assert faulty(found) == []


def test_what_is_not_held_is_noticed() -> None:
    here = "tests/docs/test_doc_claims.py::test_what_is_not_held_is_noticed"
    assert faulty([f"| a | b <!-- test: {here} --> |"]) == []
    assert faulty(["| a | b |"]) == ["no test: '| a | b |'"]
    for test in (
        "tests/none.py::test_a",
        "tests/docs/test_doc_claims.py::test_gone",
        "tests/docs/test_doc_claims.py::names",
        "x",
    ):
        assert faulty([f"**a** <!-- test: {here} {test} -->"]) == [f"no such test: {test}"]
    page = "| a |\n|---|\n| no |\n\n# What holds\n\n**One.** x\n\n| b |\n|---|\n| yes |\n\n- **Two** y\n- **Three**\n"
    assert claims(page, 2, ("What holds",)) == ["| yes |", "**One.** x", "- **Two** y", "- **Three**\n"]
