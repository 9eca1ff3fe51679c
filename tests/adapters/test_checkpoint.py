"""Adapter folders: equal answers after a round trip, nothing but what was learned, whole at any moment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from anprompt.adapters.adapter import (
    CARD,
    CONFIG,
    TENSORS,
    card,
    holds_adapter,
    load_adapter,
    read_config,
    save_adapter,
)
from anprompt.backbones import Backbone, load_backbone
from anprompt.errors import UserError
from anprompt.methods import Method, build_method
from anprompt.methods.classifier import Classifier
from anprompt.training.loop import TrainConfig
from anprompt.utils.files import read_tensors

NAMES = ("red square", "green square", "blue circle")
SMALL = {"token_width": 16, "draws": 2}


def trained(backbone: Backbone, seed: int = 1, name: str = "anprompt") -> Method:
    """A method whose tensors all differ from their start."""
    method = build_method(name, backbone, NAMES, settings=SMALL if name == "anprompt" else None, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return method


def logits(method: Method, names: tuple[str, ...] | None = None, head: str = "auto") -> torch.Tensor:
    size = method.backbone.dims.image_size
    pixels = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(7))
    return Classifier(method, names, head).logits(pixels)


@pytest.mark.parametrize("head", ["trained", "unseen"])
def test_round_trip_gives_equal_logits(tiny_backbone: Backbone, tmp_path: Path, head: str) -> None:
    method = trained(tiny_backbone)
    opened = load_adapter(save_adapter(tmp_path / "a", method))  # the backbone is found by its record
    assert (logits(method, head=head) - logits(opened, head=head)).abs().max() <= 1e-6
    assert opened.trained_classnames == NAMES and opened.preset == "anprompt"
    assert opened.config == method.config and opened.template == method.template


def test_opens_on_other_classes(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = trained(tiny_backbone)
    opened = load_adapter(save_adapter(tmp_path / "a", method), backbone=tiny_backbone)
    others = ("lynx", "puma", "an entirely different thing", "red square")
    assert (logits(method, others) - logits(opened, others)).abs().max() <= 1e-6
    assert Classifier(opened, others).head == "unseen"
    assert Classifier(opened, NAMES[:2]).head == "trained"


def test_opens_in_bfloat16_with_prompts_in_full(tiny_folder: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = trained(tiny_backbone)
    folder = save_adapter(tmp_path / "a", method)
    opened = load_adapter(folder, dtype="bfloat16")
    assert opened.backbone.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}
    full, half = logits(method), logits(opened)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    assert (full.softmax(-1) - half.softmax(-1)).abs().max() < 0.05
    again = save_adapter(tmp_path / "b", opened)  # saved from a half-precision backbone: the same tensors
    assert (again / TENSORS).read_bytes() == (folder / TENSORS).read_bytes()


def test_holds_what_was_learned_and_no_backbone(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = trained(tiny_backbone)
    folder = save_adapter(tmp_path / "a", method, train=TrainConfig(epochs=3), record={"accuracy": 0.5})
    tensors, _ = read_tensors(folder / TENSORS)
    assert set(tensors) == {name for name, _ in method.named_parameters()} | {"noise_prompts"}
    config = read_config(folder)
    assert config["backbone"]["weight_hash"] == tiny_backbone.weight_hash
    assert config["train"]["epochs"] == 3 and config["record"] == {"accuracy": 0.5}
    assert config["trained_parameters"] == method.trained_parameters()
    assert sorted(p.name for p in folder.iterdir()) == sorted([CONFIG, TENSORS, CARD])


def test_equal_methods_give_equal_files(tiny_backbone: Backbone, tmp_path: Path) -> None:
    first, second = (save_adapter(tmp_path / str(i) / "a", trained(tiny_backbone)) for i in range(2))
    for name in (CONFIG, TENSORS, CARD):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_method_without_tensors_is_an_adapter_too(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = build_method("zeroshot", tiny_backbone, NAMES)
    opened = load_adapter(save_adapter(tmp_path / "a", method), backbone=tiny_backbone)
    assert torch.equal(logits(method), logits(opened))


@pytest.mark.parametrize("dies_at", range(1, 10))
def test_a_kill_leaves_the_old_or_the_new_adapter(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    old, new = trained(tiny_backbone, 1), trained(tiny_backbone, 2)
    folder = save_adapter(tmp_path / "a", old)
    (folder / "notes.txt").write_text("mine")
    renames = 0
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == dies_at:
            raise KeyboardInterrupt  # what a kill leaves on disk, without killing the tests
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        try:
            save_adapter(folder, new)
            died = False
        except KeyboardInterrupt:
            died = True
    assert died == (dies_at <= 8)  # the owner of the lock, three files, the commit, three moves
    opened = load_adapter(folder, backbone=tiny_backbone)
    expected = old if dies_at <= 5 else new
    assert opened.seed == expected.seed and torch.equal(logits(opened), logits(expected))
    save_adapter(folder, new)  # and the next one cleans up
    assert sorted(os.listdir(folder)) == sorted([CONFIG, TENSORS, CARD, "notes.txt"])
    assert torch.equal(logits(load_adapter(folder, backbone=tiny_backbone)), logits(new))


def test_a_moved_backbone_can_be_given(tiny_folder: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    first = Path(shutil.copytree(tiny_folder, tmp_path / "first"))
    method = trained(load_backbone(str(first)))
    folder = save_adapter(tmp_path / "a", method)
    first.rename(tmp_path / "second")
    with pytest.raises(UserError, match="--backbone"):
        load_adapter(folder)
    opened = load_adapter(folder, backbone=load_backbone(str(tmp_path / "second")))
    assert torch.equal(logits(method), logits(opened))


def test_a_relative_backbone_folder_is_recorded_in_full(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    folder = save_adapter(tmp_path / "a", trained(load_backbone(f"./{tiny_folder.name}")))
    assert Path(read_config(folder)["backbone"]["id"]) == tiny_folder.resolve()
    monkeypatch.chdir(tmp_path)
    load_adapter("a")


def test_a_renamed_preset_still_opens(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = trained(tiny_backbone)
    folder = save_adapter(tmp_path / "a", method)
    config = json.loads((folder / CONFIG).read_text())
    config["preset"] = "a-preset-of-a-later-version"
    (folder / CONFIG).write_text(json.dumps(config))
    assert torch.equal(logits(load_adapter(folder, backbone=tiny_backbone)), logits(method))


def test_the_card_shows_user_text_as_text(tiny_backbone: Backbone, tmp_path: Path) -> None:
    names = ["[link](http://x)", "a|b", "# head", *(f"class {i}" for i in range(60))]
    method = build_method("zeroshot", tiny_backbone, names)
    text = (save_adapter(tmp_path / "a", method, record={"accuracy": 0.25}) / CARD).read_text()
    assert r"\[link\](http://x)" in text and r"a\|b" in text and "13 more" in text
    assert "| accuracy | 0.2500 |" in text
    assert card(read_config(tmp_path / "a"), "a") == text


def test_what_is_no_adapter(photo_folder: Path, tmp_path: Path) -> None:
    assert not holds_adapter(photo_folder) and not holds_adapter(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not an adapter"):
        read_config(photo_folder)


def test_a_folder_that_cannot_be_written(tiny_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="in the way"):
        save_adapter(tmp_path / "taken", trained(tiny_backbone))
