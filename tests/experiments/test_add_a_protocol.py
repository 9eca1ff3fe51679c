"""docs/add-a-protocol.md as a test: the sixth protocol is one file, and everything else knows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anprompt.commands import bench
from anprompt.commands._shared.parser import Parser
from anprompt.errors import UserError
from anprompt.experiments import ExperimentContext
from anprompt.experiments.protocols import PROTOCOLS, register_protocol
from anprompt.experiments.protocols.base_to_new import BaseToNew
from anprompt.experiments.sweep import run_all
from anprompt.report import write_report
from anprompt.tables import sheets
from anprompt.testing import ContractBroken, check_protocol

PAGE = (Path(__file__).parents[2] / "docs/add-a-protocol.md").read_text(encoding="utf-8")


@pytest.fixture
def sixth(monkeypatch: pytest.MonkeyPatch):
    """The page's protocol, known to this process until the test is over."""
    monkeypatch.setattr("anprompt.experiments.protocols.PROTOCOLS", PROTOCOLS)
    namespace: dict = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.S).group(1), namespace)  # type: ignore[union-attr]
    register_protocol(namespace["NewToBase"]())
    yield namespace["NewToBase"]
    del PROTOCOLS["new-to-base"]


def test_the_page_s_protocol_goes_all_the_way(sixth, tiny_backbone, photo_folder: Path, tmp_path: Path) -> None:
    parser = Parser()
    bench.add_arguments(parser)
    args = parser.parse_args(
        ["new-to-base", "--data", str(photo_folder), "--methods", "zeroshot,coop", "--seeds", "1", "--shots", "2",
         "--set", "epochs=1", "--backbone", "tiny"]
    )  # fmt: skip
    context = ExperimentContext()
    context.use("tiny", tiny_backbone)
    records = run_all(bench.specifications(args), tmp_path / "runs", context=context)
    assert [set(record["metrics"]) for record in records] == [{"seen", "unseen", "conditions"}] * 2
    trained = records[1]["metrics"]
    assert trained["seen"]["head"] == "trained" and trained["unseen"]["head"] == "unseen"
    found = sheets(records)
    assert [column.name for column in found[0].columns] == ["seen", "unseen"] and "New to base" in found[0].title
    figures = [cell.mean for cell in found[0].lines[-1].cells]
    assert figures == [pytest.approx(trained[name]["accuracy"]) for name in ("seen", "unseen")]
    page = write_report(tmp_path / "report.html", records).read_text()
    assert "New to base" in page


@pytest.mark.parametrize("name", [*PROTOCOLS])
def test_every_protocol_keeps_the_contract(name: str) -> None:
    assert {outcome.status for outcome in check_protocol(name)} == {"passed"}


def test_the_page_s_protocol_keeps_the_contract() -> None:
    namespace: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, namespace)
    assert "new-to-base" not in PROTOCOLS  # checked without being registered, and forgotten again


class Faulty(BaseToNew):
    """Figures that are not announced, and not in percent."""

    name = "faulty"

    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        return {"base": record["metrics"]["base"]["accuracy"] * 100, "mean": 1.0}


def test_faults_are_found_each_by_its_check() -> None:
    with pytest.raises(ContractBroken, match=r"headline_has_the_figures: .*\['mean'\], which `figures` lacks"):
        check_protocol(Faulty, only=["headline_has_the_figures"])


def test_a_name_is_given_once(sixth) -> None:
    class Other(BaseToNew):
        name = "new-to-base"

    with pytest.raises(UserError, match="'new-to-base' already"):
        register_protocol(Other())
