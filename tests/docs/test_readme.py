"""The README's first screen works as printed, and its figures are those of the claims."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from benchmarks import refresh_claims

from anprompt.commands.main import main
from tests.docs.test_tutorials import desk  # noqa: F401

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST = README[: README.index("![")]
INSTALL, PYTHON, SHELL = re.findall(r"^```\w+\n(.*?)^```$", FIRST, re.MULTILINE | re.DOTALL)


def test_from_installation_to_an_answer_in_ten_lines() -> None:
    lines = [line for block in (INSTALL, PYTHON, SHELL) for line in block.splitlines()]
    assert len(lines) <= 10 and INSTALL.startswith("pip install ") and "predict" in PYTHON and "predict" in SHELL
    assert len(README[: README.index("## ")].splitlines()) < 60


def test_its_python_and_shell_work_as_printed(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    shutil.rmtree("adapter")
    names: dict = {}
    exec(compile(PYTHON, "README.md", "exec"), names)
    assert list(names["clf"].classes_) == ["lynx", "siamese", "tabby"]
    for line in SHELL.splitlines():
        program, *words = shlex.split(line)
        assert program == "anprompt"
        assert main([*words, *(["--epochs", "1"] if words[0] == "fit" else [])]) == 0, capsys.readouterr().err


def test_its_table_is_what_refresh_claims_writes() -> None:
    [table] = re.findall(r"<!-- MEASURED -->\n(.*?)<!-- /MEASURED -->", README, re.DOTALL)
    assert table == refresh_claims.readme_table()


def test_the_page_of_measurements_says_the_same() -> None:
    page = (ROOT / "docs/measured.md").read_text(encoding="utf-8").split("## All methods")[1]
    for method, title in refresh_claims.TITLES.items():
        [row] = re.findall(rf"^\| {re.escape(title)} \|(.*)\| \d\.\d \|", page, re.MULTILINE)
        shown = [float(cell.split("±")[0]) for cell in row.split("|")]
        assert shown == pytest.approx(
            [refresh_claims.measured_here(method)["values"][key] for key in ("base", "new", "H")], abs=0.051
        )


def test_ci_finds_the_test_command() -> None:
    assert "\nmake test\n" in README
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").rstrip().endswith("test")
