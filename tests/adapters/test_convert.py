"""`anprompt convert`: official files made here, and the adapters that come of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import anprompt
from anprompt.adapters.adapter import load_adapter
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.methods import Classifier
from tests.adapters.test_checkpoints_field import NAMES, SETTINGS, Evil, official_state, randomised, save
from tests.golden.parity import Golden
from tests.shared import shared

CLASSES = ",".join(NAMES)


def convert(file: Path, out: Path, backbone: Path, *more: str, classes: str = CLASSES) -> int:
    words = ["convert", file, "--classes", classes, "--backbone", backbone, "--out", out, *more]
    return main([str(word) for word in words])


@pytest.fixture
def maple_file(tiny_backbone: Backbone, tmp_path: Path) -> Path:
    return save(tmp_path, official_state("maple", randomised("maple", tiny_backbone)))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_adapter_answers_as_the_file(
    name: str, tiny_backbone: Backbone, tiny_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    """Opened from its folder alone, on trained and on other classes, from picture files."""
    method = randomised(name, tiny_backbone)
    assert convert(save(tmp_path, official_state(name, method)), tmp_path / "out", tiny_folder) == 0
    opened = anprompt.load(tmp_path / "out")
    pictures = sorted(photo_folder.glob("*/0.png"))
    source = anprompt.PromptClassifier(tiny_backbone)._adopt(method)
    for classes in (None, ["lynx", "ox", "cat"]):
        found = opened.predict_proba(pictures, classes=classes)
        np.testing.assert_allclose(found, source.predict_proba(pictures, classes=classes), atol=1e-5)
    spread = opened.predict_proba(pictures)
    assert spread.std() > 1e-4  # else equality above would say nothing


# kind of golden file -> what no tensor tells
GOLDEN: dict[str, list[str]] = {
    "coop": [],
    "coop_csc_middle": ["class_position=middle"],
    "coop_front": ["class_position=front"],
    "cocoop": [],
    "maple": [],
    "promptsrc": [],
    "mmrl": ["logit_scale=100"],
    "mmrlpp": ["logit_scale=100"],
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_official_tensors_give_the_official_logits(kind: str, tmp_path: Path) -> None:
    """The official code's own tensors, through file, command and adapter, against its own outputs."""
    golden = Golden.read(shared(f"golden/{kind}_seed0.safetensors"))
    state = golden.group("param.")
    if "coop" in kind:  # saved as the prompt learner alone
        state = {key.removeprefix("prompt_learner."): value for key, value in state.items()}
    file = save(tmp_path, state)
    more = [word for pair in GOLDEN[kind] for word in ("--set", pair)]
    names = ",".join(golden.classnames)
    place = shared("golden/tiny-clip")
    more += ["--template", "a photo of a {}."]
    assert convert(file, tmp_path / "out", place, *more, classes=names) == 0
    method = load_adapter(tmp_path / "out")
    found = Classifier(method).logits(golden.tensors["image"])
    expected = golden.tensors.get("logits_fusion", golden.tensors["logits"])
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)


def test_result_as_json(maple_file: Path, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    assert convert(maple_file, tmp_path / "out", tiny_folder, "--json", "--method", "maple") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["method"] == "maple" and result["classes"] == 3 and result["settings"]["depth"] == 3
    assert json.loads((tmp_path / "out/config.json").read_text())["record"] == {"converted_from": maple_file.name}


def test_settings_that_no_tensor_tells(tiny_backbone: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    file = save(tmp_path, official_state("mmrlpp", randomised("mmrlpp", tiny_backbone)))
    assert convert(file, tmp_path / "out", tiny_folder, "--set", "beta=0.25", "--set", "head_weight=0.5") == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["settings"]["beta"] == 0.25 and config["settings"]["head_weight"] == 0.5
    assert config["template"] == "a photo of a {}."


@pytest.mark.parametrize(
    "more, words",
    [
        (["--method", "coop"], "holds prompts of 'maple', not of 'coop'"),
        (["--method", "mapel"], "Did you mean 'maple'?"),
        (["--set", "dept=3"], "Did you mean 'depth'?"),
        (["--template", "a photo"], "'{}'"),
        (["--backbone", "embedded"], "has the shape"),
        (["--classes", "cat"], "at least two names"),
        (["--classes", "@none.txt"], "none.txt"),
        (["--out", "model.pth.tar-5/x"], "--out"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line_and_leave_no_folder(
    more: list[str], words: str, maple_file: Path, tiny_folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(maple_file.parent)
    assert convert(maple_file, tmp_path / "out", tiny_folder, *more) == 2
    err = capsys.readouterr().err
    assert err.startswith("anprompt: error: ") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "out").exists()


def test_code_in_a_file_is_refused(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    marker = tmp_path / "ran"
    file = save(tmp_path, {"ctx": torch.zeros(2, 32)}, val_result=Evil(marker))
    assert convert(file, tmp_path / "out", tiny_folder) == 2
    assert "would run code" in capsys.readouterr().err
    assert not marker.exists() and not (tmp_path / "out").exists()


def test_what_lies_in_the_folder_is_kept(maple_file: Path, tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert convert(maple_file, out, tiny_folder) == 2
    assert "notes.txt" in capsys.readouterr().err and [p.name for p in out.iterdir()] == ["notes.txt"]
    assert convert(maple_file, out, tiny_folder, "--overwrite") == 0
    assert (out / "notes.txt").read_text() == "mine" and (out / "adapter.safetensors").is_file()
