"""An adapter knows the images that it was trained on, and `eval` says how many of them it tests on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import anprompt as ap
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.data import trained_images
from anprompt.data.trained_images import to_record, trained_among
from anprompt.data.types import Item
from tests.pictures import noise, save

KINDS = ("apple", "banana")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and an adapter of them."""
    root = tmp_path_factory.mktemp("trained")
    for start, kind in enumerate(KINDS):
        for number in range(12):
            save(root / "photos" / kind / f"{number:02}.png", noise(20, 20, seed=100 * start + number))
    quick = ("--method", "coop", "--shots", "2", "--set", "epochs=1", "--quiet")
    assert main(["fit", "--data", str(root / "photos"), *quick, "--out", str(root / "adapter")]) == 0
    return root


def evaluated(place: Path, capsys: pytest.CaptureFixture[str], data: Path, *options: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["eval", str(place / "adapter"), "--data", str(data), "--json", *options]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_nothing_of_the_own_test_part_was_trained_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = evaluated(place, capsys, place / "photos")
    assert found["trained_on"] == 0 and "trained on" not in err and "--split all" not in err
    assert main(["eval", str(place / "adapter"), "--data", str(place / "photos")]) == 0
    assert "none of these images was trained on" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["all", "train"])
def test_images_of_the_training_are_counted(place: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = evaluated(place, capsys, place / "photos", "--split", option)
    assert found["trained_on"] == 4 and f"4 of the {found['pictures']} images were trained on" in err


def test_names_and_folders_do_not_matter(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        (tmp_path / "else" / kind).mkdir(parents=True)
        for number, file in enumerate(sorted((place / "photos" / kind).iterdir())):
            shutil.copy(file, tmp_path / "else" / kind / f"other {99 - number}.png")
    found, _ = evaluated(place, capsys, tmp_path / "else", "--split", "all")
    assert found["trained_on"] == 4
    for start, kind in enumerate(KINDS):
        for number in range(12):
            save(tmp_path / "fresh" / kind / f"{number:02}.png", noise(20, 20, seed=5000 + 100 * start + number))
    found, err = evaluated(place, capsys, tmp_path / "fresh")
    assert found["trained_on"] == 0 and "None of it was trained on: --split all" in err


def test_a_saved_classifier_knows_them_too(place: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    clf = ap.PromptClassifier(tiny_backbone, method="coop", shots=2, train={"epochs": 1}).fit(place / "photos")
    clf.save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved/config.json").read_text())["record"]
    items = [Item(str(path), 0, "x") for path in sorted((place / "photos").glob("*/*.png"))]
    assert trained_among(record, items) == 4
    ap.load(tmp_path / "saved", backbone=tiny_backbone).save(tmp_path / "again")
    again = json.loads((tmp_path / "again/config.json").read_text())["record"]
    assert again[trained_images.KEY] == record[trained_images.KEY]
    assert "marks" not in (tmp_path / "saved/README.md").read_text()


@pytest.mark.parametrize(
    "record",
    [None, [], {}, {"image_marks": 3}, {"image_marks": {"marks": 3}}, {"image_marks": {"marks": "xyz"}},
     {"image_marks": {"marks": "0" * 15}}, {"image_marks": {"marks": "0" * 16 + "\n"}}],
)  # fmt: skip
def test_records_that_do_not_say_it_say_nothing(record: Any) -> None:
    assert trained_among(record, [Item("a", 0, "x")]) is None


def test_very_many_are_not_written_down(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained_among({trained_images.KEY: to_record([])}, [Item("a", 0, "x")]) == 0
    monkeypatch.setattr(trained_images, "MOST", 3)
    quick = ("--method", "coop", "--shots", "2", "--set", "epochs=1", "--quiet")
    assert main(["fit", "--data", str(place / "photos"), *quick, "--out", str(tmp_path / "adapter")]) == 0
    assert trained_images.KEY not in json.loads((tmp_path / "adapter/config.json").read_text())["record"]
