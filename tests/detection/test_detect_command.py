"""`anprompt detect`: from a folder of normal images to answers in one file, figures and a threshold."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.detection.test_detector import boards

from anprompt.commands.main import main

__all__ = ["boards"]  # the fixture


@pytest.fixture(scope="session")
def detector(boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fit") / "detector"
    assert main(["detect", "fit", "--data", str(boards), "--method", "patchcore", "--shots", "2", "--tiles", "1", "--out", str(out),
                 "--false-alarms", "0.2"]) == 0  # fmt: skip
    return out


def failed(capsys: pytest.CaptureFixture, *words: str) -> str:
    capsys.readouterr()
    assert main(["detect", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_all_answers_are_in_one_file(
    detector: Path, boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(boards / "test/short", tmp_path / "p")
    (tmp_path / "p/spoiled.png").write_bytes(b"no image")
    answers, maps = tmp_path / "a.csv", tmp_path / "maps"
    words = ["detect", "predict", str(detector), str(tmp_path / "p"), "--csv", str(answers), "--maps", str(maps)]
    assert main(words) == 0 and main([*words, "--json"]) == 0  # its own table may be replaced
    said = capsys.readouterr()
    assert "spoiled.png: is not a picture" in said.err and "images are above the threshold" in said.out
    rows = list(csv.DictReader(answers.open()))
    assert len(rows) == 4 and sum(bool(row["note"]) for row in rows) == 1
    told = json.loads(said.out[said.out.index("{") :])
    assert [row.get("score") for row in told["answers"]] == [
        float(row["score"]) if row["score"] else None for row in rows
    ]
    for row in rows[:3]:
        assert row["anomalous"] == str(float(row["score"]) > float(row["threshold"]))
    sheets = sorted(maps.glob("*.png"))
    assert len(sheets) == 3 and Image.open(sheets[0]).width > 2 * 96


def test_eval_has_every_figure(detector: Path, boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sheet = tmp_path / "g.png"
    assert main(["detect", "eval", str(detector), "--data", str(boards), "--json", "--gallery", str(sheet)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["mean"]) == {
        "image_auroc",
        "image_ap",
        "image_f1max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1max",
        "aupro",
    }
    assert told["categories"]["pcb"]["all"] == told["mean"] and Image.open(sheet).width > 800


def test_threshold_says_what_it_can_not_promise(
    detector: Path, boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(detector, tmp_path / "d")
    assert main(["detect", "threshold", str(tmp_path / "d"), "--data", str(boards), "--false-alarms", "0.02"]) == 0
    said = capsys.readouterr()
    assert "from 8 normal images" in said.out  # two were learned from
    assert "with 8 normal images a rate under 11.1% can't be promised; 49 are needed for 2.0%" in said.err
    assert json.loads((tmp_path / "d/config.json").read_text())["threshold"]["asked"] == 0.02
    assert json.loads((detector / "config.json").read_text())["threshold"]["asked"] == 0.2


def test_wrong_requests_are_one_line(
    detector: Path, boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    here = str(tmp_path)
    assert "--csv belongs to 'detect predict'" in failed(capsys, "fit", "--csv", "a.csv")
    assert "needs --data" in failed(capsys, "fit")
    assert "takes no names" in failed(capsys, "fit", "x", "--data", str(boards))
    assert "Did you mean 'patchcore'" in failed(capsys, "fit", "--data", str(boards), "--method", "patchcor")
    assert "needs a detector and images" in failed(capsys, "predict", str(detector))
    assert "needs the rate of false alarms" in failed(capsys, "threshold", str(detector), "--data", str(boards))
    assert "is not a detector" in failed(capsys, "eval", str(boards), "--data", str(boards))
    assert "Did you mean 'eval'" in failed(capsys, "evl")
    (tmp_path / "own.txt").write_text("mine")
    assert "holds other files" in failed(capsys, "fit", "--data", str(boards), "--out", here)
    (tmp_path / "own.csv").write_text("mine")
    assert "not written by anprompt" in failed(
        capsys, "predict", str(detector), str(boards / "test/good"), "--csv", f"{here}/own.csv"
    )
    assert (tmp_path / "own.csv").read_text() == "mine"
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.png").write_bytes(b"x")
    assert "None of the 1 files" in failed(capsys, "predict", str(detector), f"{here}/p")
