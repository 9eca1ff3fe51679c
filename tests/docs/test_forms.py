"""The files that tools and web pages read are of the form they ask for, and fetch nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from anprompt import __version__

ROOT = Path(__file__).parents[2]
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_forms_have(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "checkboxes") and part["attributes"]["label"]
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_there_are_forms() -> None:
    assert {path.stem for path in FORMS} == {"addition", "fault", "figure"}


def test_hooks_before_a_commit_are_local() -> None:
    repositories = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format"]
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_citation_names_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert citation["title"] and citation["message"] and citation["authors"]
