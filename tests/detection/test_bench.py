"""The protocol `anomaly`: runs are resumed, what is seen is shared without changing a figure, tables and page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.detection.test_detector import boards

from anprompt.commands.main import main
from anprompt.detection.detector import AnomalyDetector
from anprompt.detection.evaluation import examine
from anprompt.detection.layouts import open_category
from anprompt.errors import UserError
from anprompt.experiments.anomaly import plan, run_all
from anprompt.experiments.records import read_records
from anprompt.tables.anomaly import anomaly_sheets, cells_of

__all__ = ["boards"]  # the fixture


@pytest.fixture(scope="session")
def runs(boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "runs"
    words = [
        "detect",
        "bench",
        "--data",
        str(boards),
        "--methods",
        "clip,patchcore",
        "--shots",
        "1,2",
        "--seeds",
        "1,2",
        "--tiles",
        "1",
    ]
    assert main([*words, "--runs", str(out)]) == 0
    assert main([*words, "--runs", str(out)]) == 0  # nothing is run again, and its own tables may be replaced
    return out


def test_one_record_a_run_and_what_changes_nothing_is_run_once(runs: Path) -> None:
    records = read_records(runs)
    assert sorted((r["spec"]["method"], r["spec"]["shots"], r["spec"]["seed"]) for r in records) == [
        ("clip", 0, 1), ("patchcore", 1, 1), ("patchcore", 1, 2), ("patchcore", 2, 1), ("patchcore", 2, 2),
    ]  # fmt: skip
    for record in records:
        assert (
            set(record["metrics"]["all"]) >= {"image_auroc", "pixel_auroc", "aupro"}
            and len(record["data"]["learned"]) == record["spec"]["shots"]
        )
        assert len(record["images"]["scores"]) == record["data"]["test"] == 6 and len(record["curves"]["roc"]) == 61


def test_shared_looks_give_the_figures_of_a_detector_by_itself(runs: Path, boards: Path) -> None:
    record = next(r for r in read_records(runs) if r["spec"]["method"] == "patchcore" and r["spec"]["shots"] == 2)
    detector = AnomalyDetector(method="patchcore", shots=2, seed=record["spec"]["seed"], tiles=1).fit(str(boards))
    found = examine(open_category(boards), lambda image, _: detector.scored_image(image))
    assert record["metrics"]["all"]["image_auroc"] == pytest.approx(100 * found.figures().image_auroc)
    torch.testing.assert_close(
        torch.tensor(record["images"]["scores"]), torch.tensor(found.scores), atol=2e-3, rtol=1e-2
    )


def test_tables_and_page(runs: Path) -> None:
    records = read_records(runs)
    sheets = anomaly_sheets(records)
    clip = next(line for line in sheets[0].lines if line.name == "clip")
    assert len({cell.mean for cell in clip.cells}) == 1  # the same beside any number of images
    assert len(cells_of(records, "clip", 2, "aupro", [1, 2])) == 2
    page = (runs / "anomaly.html").read_text()
    for words in ("ROC of images", "PRO of defects", "image AUROC", "short/", "data:image/webp"):
        assert words in page


def test_slips_are_told_before_anything_is_run(boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start = ["detect", "bench", "--data", str(boards), "--runs", str(tmp_path / "r")]
    for words, said in (
        (["--methods", "patchcor"], "Did you mean 'patchcore'"), (["--shots", "x"], "must be a whole number"),
        (["--methods", "apt", "--set", "step=3"], "Did you mean 'steps'"), (["--methods", "patchcore", "--shots", "0"], "Nothing to run"),
    ):  # fmt: skip
        assert main([*start, *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    with pytest.raises(UserError, match="no test images"):
        from anprompt.experiments.anomaly import check_specs

        check_specs(plan([str(boards / "train/good")], ["clip"], shots=[0], seeds=[1]))


def test_an_interrupted_sweep_uses_what_was_seen(boards: Path, tmp_path: Path) -> None:
    specs = plan(["pcb"], ["clip"], shots=[0], seeds=[1], tiles=1, root=str(boards.parent))
    first = run_all(specs, tmp_path / "a", looks=tmp_path / "looks")
    kept = list((tmp_path / "looks").iterdir())
    kept[0].write_bytes(b"cut")
    again = run_all(specs, tmp_path / "b", looks=tmp_path / "looks")
    assert len(kept) == 6 and first[0]["metrics"] == again[0]["metrics"]
    assert json.dumps(first[0]["images"]) == json.dumps(again[0]["images"])
