"""Many pictures to a file: every one once, in CSV and JSON lines, over stops, damaged files and repetitions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anprompt.commands import predict
from anprompt.commands.main import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (20 + i, 20), (20 * i, 255 - 20 * i, 90)).save(folder / f"{i}.png")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])
    Image.new("RGB", (20, 20), "blue").save(folder / "=1+1.png")
    return folder


def ask(pictures: Path | str, out: Path, *more: str) -> int:
    words = ["predict", "zeroshot", str(pictures), "--classes", "red,green,blue", "--out", str(out), *more]
    return main([*words, "--batch-size", "2", "--top", "2"])


def rows_of(out: Path) -> list[dict[str, Any]]:
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    return list(csv.DictReader(out.read_text().splitlines()))


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_stopped_run_goes_on_and_nothing_stands_there_twice(
    ending: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(pictures, tmp_path / f"whole{ending}") == 0
    out, real, asked = tmp_path / f"stopped{ending}", predict._answers, list[int]()

    def stops(*args: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(predict, "_answers", stops)
    assert ask(pictures, out) == 130
    monkeypatch.setattr(predict, "_answers", real)
    with out.open("a") as file:
        file.write("half a ro")  # what a kill in the middle of writing leaves
    before = len(rows_of(tmp_path / f"whole{ending}"))
    assert ask(pictures, out) == 0
    assert rows_of(out) == rows_of(tmp_path / f"whole{ending}") and before == 10
    kept = out.read_bytes()
    assert ask(pictures, out) == 0 and out.read_bytes() == kept


def test_answers_are_those_without_a_file_and_damaged_files_are_listed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.csv"
    assert ask(pictures, out) == 0
    told = capsys.readouterr()
    assert "1 of 10 pictures skipped" in told.err and "4.png" in told.err and "a second" in told.out
    assert main(["predict", "zeroshot", str(pictures), "--classes", "red,green,blue", "--top", "2", "--json"]) == 0
    answers = {row["picture"]: row["top"] for row in json.loads(capsys.readouterr().out)["predictions"]}
    rows = {row["picture"]: row for row in rows_of(out)}
    assert set(rows) == {*answers, str(pictures / "4.png")} and "damaged" in rows[str(pictures / "4.png")]["error"]
    for name, (first, second) in answers.items():
        assert (rows[name]["class"], rows[name]["class_2"]) == (first["class"], second["class"])
        assert float(rows[name]["probability"]) == pytest.approx(first["probability"], abs=1e-5)


def test_another_request_and_others_files_are_left_alone(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.csv"
    out.write_text("my notes\n")
    assert ask(pictures, out) == 2 and "is there already" in capsys.readouterr().err
    assert out.read_text() == "my notes\n"
    assert ask(pictures, tmp_path / "b.csv") == 0
    kept = (tmp_path / "b.csv").read_bytes()
    assert ask(pictures, tmp_path / "b.csv", "--threshold", "0.9") == 2
    assert "another request" in capsys.readouterr().err and (tmp_path / "b.csv").read_bytes() == kept
    assert ask(pictures, tmp_path / "c.txt") == 2 and ".csv" in capsys.readouterr().err


def test_a_list_of_paths(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text(f"pictures/0.png\n\n{pictures}/1.png\n")
    assert ask(f"@{tmp_path / 'list.txt'}", tmp_path / "a.jsonl") == 0
    assert [Path(row["picture"]).name for row in rows_of(tmp_path / "a.jsonl")] == ["0.png", "1.png"]
    assert ask(f"@{tmp_path / 'none.txt'}", tmp_path / "b.jsonl") == 2
    assert "none.txt" in capsys.readouterr().err
