"""`anprompt attack`: the page, the figures, going on after an interruption, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anprompt.adapters.adapter import save_adapter
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.methods import create_method

NAMES = ["blue_square", "green square", "red_square"]
QUICK = ["--attacks", "pgd-margin,transfer", "--eps", "2/255,64/255", "--steps", "2", "--split", "all"]


@pytest.fixture
def words(tiny_backbone: Backbone, tiny_folder: Path, photo_folder: Path, tmp_path: Path) -> list[str]:
    """An adapter on the tiny model, and the images it is attacked on."""
    save_adapter(tmp_path / "adapter", create_method("vpt", tiny_backbone, NAMES))
    data = ["--data", str(photo_folder), "--backbone", str(tiny_folder), "--out", str(tmp_path / "out")]
    return ["attack", str(tmp_path / "adapter"), *data, *QUICK]


def test_page_and_figures(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main(words) == 0
    told = capsys.readouterr()
    assert "accuracy left" in told.out and "most fragile classes" in told.out
    page = (tmp_path / "out/attack.html").read_text()
    for text in ("What is left", "Most fragile classes", "What this says, and what not", "upper bound", "2/255"):
        assert text in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    figures = json.loads((tmp_path / "out/attack.json").read_text())
    for name, entry in figures["attacks"].items():
        assert entry["accuracy"] <= figures["accuracy"] and entry["threat"]["norm"] == "linf", name
    assert figures["fragile"] == sorted(figures["fragile"], key=lambda row: row["left"])


def test_json_and_a_second_run_agree(words: list[str], tmp_path: Path, capsys: Any) -> None:
    found = []
    for _ in range(2):
        assert main([*words, "--json"]) == 0
        found.append({name: one["predicted"] for name, one in json.loads(capsys.readouterr().out)["attacks"].items()})
    assert found[0] == found[1]


def test_somebody_elses_files_stay(words: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/attack.html").write_text("mine")
    assert main(words) == 2 and "attack.html" in capsys.readouterr().err
    assert (tmp_path / "out/attack.html").read_text() == "mine"


@pytest.mark.parametrize(
    "options,says",
    [
        (["--eps", "0"], "above 0"),
        (["--eps", "2"], "at most 1"),
        (["--eps", "big"], "fraction like 2/255"),
        (["--steps", "0"], "1 to 10,000 steps"),
        (["--attacks", "pgdmargin"], "Did you mean 'pgd-margin'"),
        (["--attacks", ","], "--attacks is empty"),
        (["--norm", "l1"], "Unknown norm 'l1'"),
        (["--dtype", "bf16"], "fp32"),
    ],
)
def test_wrong_options_are_one_line(words: list[str], options: list[str], says: str, capsys: Any) -> None:
    assert main([*words, *options]) == 2
    told = capsys.readouterr().err
    assert says in told.splitlines()[-1] and told.count("error:") == 1


def test_one_class_and_a_missing_extra(words: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    import importlib.util

    from PIL import Image

    (tmp_path / "alone/red_square").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "alone/red_square/a.png")
    assert main([*["attack", "zeroshot", *words[2:]], "--data", str(tmp_path / "alone")]) == 2
    assert "class" in capsys.readouterr().err
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pyautoattack" else real(name, *a)
    )
    assert main([*words, "--attacks", "square"]) == 2
    assert "pip install 'anprompt[attack]'" in capsys.readouterr().err
