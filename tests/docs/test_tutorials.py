"""The tutorials are run as they are printed, with a tiny model and one epoch of training."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from anprompt import backbones
from anprompt import classifier as predict
from anprompt.adapters import adapter as checkpoint
from anprompt.adapters.adapter import save_adapter
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.methods import build_method
from anprompt.training import job as tuning
from tests.adapters.test_checkpoints_field import official_state, randomised, save

FOLDER = Path(__file__).parents[2] / "docs/tutorials"
PAGES = sorted(page.name for page in FOLDER.glob("*.md") if page.name != "README.md")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = ["lynx", "siamese", "tabby"]
MODELS = ("embedded", "openai/clip-vit-base-patch16")
# So that a page takes seconds; what it shows stays as it is.
QUICKER = {"fit": ["--epochs", "1"], "bench": ["--seeds", "1", "--methods", "zeroshot,coop", "--set", "epochs=1"]}


@pytest.fixture
def desk(
    tiny_backbone: Backbone, tiny_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder as a reader of the pages has it: pictures, an adapter, an old checkpoint; models are the tiny one."""
    for name, colour in zip(NAMES, ("blue_square", "green square", "red_square")):
        shutil.copytree(photo_folder / colour, tmp_path / "my_photos" / name)
    Image.new("RGB", (40, 40), (200, 60, 50)).save(tmp_path / "picture.jpg")
    save_adapter(tmp_path / "adapter", build_method("anprompt", tiny_backbone, NAMES, settings={"token_width": 16}))
    save(tmp_path, official_state("coop", randomised("coop", tiny_backbone))).rename(tmp_path / "model.pth.tar-50")
    real_load, real_plan = backbones.load_backbone, tuning.plan

    def load(name: str, **options: Any) -> Backbone:
        return tiny_backbone if name in MODELS else real_load(name, **options)

    def plan(*given: Any, train: Mapping[str, Any] | None = None, **more: Any) -> Any:
        return real_plan(*given, train={**(train or {}), "epochs": 1, "warmup_epochs": 0}, **more)

    for module in (backbones, predict, checkpoint):
        monkeypatch.setattr(module, "load_backbone", load)
    monkeypatch.setattr("anprompt.load_backbone", load)  # the package keeps a name once it was asked for
    for module in (tuning, predict):
        monkeypatch.setattr(module, "plan", plan)
    monkeypatch.setattr("anprompt.experiments.context.load_backbone", load)
    monkeypatch.setattr("anprompt.detection.detector.load_backbone", load)
    monkeypatch.setattr(
        "anprompt.experiments.runners.local.default_jobs", lambda *_: 1
    )  # one process: the model is not on disk
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_as_printed(page: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page == "own-photos.md":  # makes its own
        shutil.rmtree("adapter")
    blocks = BLOCK.findall((FOLDER / page).read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"sh", "python"}
    names: dict[str, Any] = {}
    threads = torch.get_num_threads()
    for language, text in blocks:
        if language == "python":
            exec(compile(text, page, "exec"), names)
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            assert program == "anprompt"
            assert main([*words, *QUICKER.get(words[0], [])]) == 0, (line, capsys.readouterr().err)
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    expected = {
        "own-photos.md": ("test accuracy", "'siamese'", "picture.jpg"),
        "compare-methods.md": ("to run", "coop 4 1", "report.html"),
        "noise-check.md": ("clean 0.", "changed answers", "zeroshot"),
        "new-classes.md": ("unseen trained", "ocelot", "temperature", "Calibration("),
        "under-attack.md": ("accuracy left", "most fragile classes", "as they are"),
        "find-defects.md": ("learned from 8 normal images", "from 12 normal images", "map (96, 96)", "mousebite"),
        "old-checkpoints.md": ("adapter old: coop", "puma", "coop 96"),
    }[page]
    for words in expected:
        assert words in out, (words, out[-2000:])


def test_all_pages_are_listed() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"]({page})" in index
    for page in [*PAGES, "README.md"]:
        text = (FOLDER / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+?)\)", text):
            assert (FOLDER / target).exists(), (page, target)
