"""A CLIP read without transformers is the one that transformers reads, and whatever is not understood goes to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anprompt.backbones import load_backbone
from anprompt.backbones.clip_files import read_clip
from anprompt.backbones.clip_modules import ClipModel
from anprompt.backbones.clip_tokenizer import read_tokenizer
from anprompt.backbones.hf import _by_transformers, weight_hash
from anprompt.data.embedded import embedded_model_folder

SENTENCES = [
    "a photo of a cat.", "A PHOTO  of a\tDog\n!", "it's we'll they've 1234 x2y", "Ünïcödé naïve café", "e\u0301 \u00e9",
    "日本語の猫", "кошка и собака", "قطة", "a🙂b 👩‍👩‍👧", "", " ", "...", "under_score-dash/slash", "a <|endoftext|> b",
    "<|startoftext|>", "ﬁ ﬂ ½ Ⅷ", "don't can't 'sound' ''quoted''", "\u200bzero\u200bwidth", "tab\u00a0nbsp", "9.99 % & co.",
]  # fmt: skip


@pytest.fixture(params=["embedded", "tiny"])
def folder(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of a model: one whose tokenizer is taken as it is, one whose tokenizer is CLIP's."""
    copy = tmp_path / "model"
    shutil.copytree(embedded_model_folder() if request.param == "embedded" else tiny_folder, copy)
    return copy


def test_weights_ids_and_settings_are_those_of_transformers(folder: Path) -> None:
    backbone = load_backbone(folder)
    assert isinstance(backbone.model, ClipModel)
    model, tokenizer, picture = _by_transformers(str(folder), "clip")
    assert backbone.weight_hash == weight_hash(model)
    assert backbone.activation == model.config.text_config.hidden_act
    assert list(backbone.mean) == list(picture.get("image_mean", backbone.default_mean))
    own = read_tokenizer(folder)
    assert own is not None
    for sentence in SENTENCES:
        assert own(sentence)["input_ids"] == tokenizer(sentence)["input_ids"], sentence
    assert own.many(SENTENCES) == [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    assert (own.eos_token_id, own.pad_token_id, own.vocab_size) == (
        tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.vocab_size,
    )  # fmt: skip


def _bin(folder: Path) -> None:
    torch.save(load_backbone(folder).model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _edit(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def _other_activation(folder: Path) -> None:
    for tower in ("text_config", "vision_config"):
        content = json.loads((folder / "config.json").read_text())
        _edit(folder, "config.json", **{tower: {**content[tower], "hidden_act": "relu"}})


@pytest.mark.parametrize("spoil", [_bin, _other_activation])
def test_what_is_not_understood_goes_to_transformers(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    assert read_clip(folder) is None
    backbone = load_backbone(folder)
    assert not isinstance(backbone.model, ClipModel)
    text, _ = backbone.stock_forward(
        backbone.tokenize(["a cat"]).ids, torch.zeros(1, 3, *[backbone.dims.image_size] * 2)
    )
    assert torch.equal(backbone.encode_text(["a cat"]), text)


def test_a_config_of_before_2023_is_the_whole_truth_where_it_is_given(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    wrong = {**config["text_config"], "num_hidden_layers": 2, "hidden_act": "relu"}
    _edit(folder, "config.json", text_config=wrong, text_config_dict=config["text_config"])
    backbone = load_backbone(folder)
    assert isinstance(backbone.model, ClipModel)
    assert backbone.weight_hash == weight_hash(_by_transformers(str(folder), "clip")[0])


@pytest.mark.parametrize("changes", [
    {"add_bos_token": True}, {"tokenizer_class": "GPT2Tokenizer"}, {"eos_token": "<|other|>"}, {"extra_special_tokens": ["<x>"]},
])  # fmt: skip
def test_other_tokenizers_are_left_to_transformers(folder: Path, changes: dict[str, object]) -> None:
    _edit(folder, "tokenizer_config.json", **changes)
    assert read_tokenizer(folder) is None


def test_half_a_file_of_weights_is_not_read(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert read_clip(folder) is None


def test_a_million_blocks_that_are_not_there_are_not_made(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    _edit(folder, "config.json", text_config={**config["text_config"], "num_hidden_layers": 10**9})
    assert read_clip(folder) is None


def test_a_model_in_the_hubs_cache_is_read_the_same_way(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "hub/models--some--clip"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("0" * 40)
    shutil.copytree(folder, kept / "snapshots" / ("0" * 40))
    code = (
        "import sys\nfrom anprompt.backbones import load_backbone\nprint(load_backbone('some/clip').weight_hash)\n"
        "sys.exit('transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split() == [load_backbone(folder).weight_hash]
