"""The backbone contract, and what a user reads when a model can't be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from anprompt.backbones import Backbone, Hook, Tokens, identity_hook, load_backbone
from anprompt.backbones.hf import HFClip, weight_hash
from anprompt.errors import UserError
from anprompt.testing import ContractBroken, backbone_checks, check_backbone

SENTENCES = ["a photo of a cat.", "a photo of a very large red fire engine.", "dog"]


def pixels(backbone: Backbone, count: int = 3) -> torch.Tensor:
    size = backbone.dims.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_sentence_too_long_is_refused_without_a_warning_besides(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    backbone = load_backbone("embedded")
    with pytest.raises(UserError, match="tokens"):
        backbone.tokenize(["word " * 100])
    assert not caplog.records and capfd.readouterr().err == ""


@pytest.mark.parametrize("check", backbone_checks())
@pytest.mark.parametrize("name", ["tiny", "embedded"])
def test_contract(name: str, check: str, tiny_backbone: Backbone) -> None:
    assert check_backbone(tiny_backbone if name == "tiny" else name, only=[check])[0].status == "passed"


class Faulty(HFClip):
    """Blocks counted from 0, and sentences that are too long taken as they are."""

    def run_image(
        self, x: torch.Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook
    ) -> torch.Tensor:
        return super().run_image(x, first, last, lambda block, x: hook(block - 1, x))

    def tokenize(self, sentences: Sequence[str], cut: bool = False) -> Tokens:
        return super().tokenize(sentences, cut=True)


def test_faults_are_found_each_by_its_check(tiny_folder: Path) -> None:
    faulty = Faulty(str(tiny_folder))
    faulty.model.train().requires_grad_(True)
    with pytest.raises(ContractBroken) as told:
        check_backbone(faulty)
    found = [line.strip().partition(":")[0] for line in str(told.value).splitlines()[1:]]
    assert {"frozen_even_when_asked_to_train", "hook_sees_every_block_once", "long_sentences_are_refused"} <= set(found)
    assert "calls its hook at blocks [0, 1, 2, 3]" in str(told.value)


def test_sentences_are_cut_to_the_longest(tiny_backbone: Backbone) -> None:
    tokens = tiny_backbone.tokenize(SENTENCES)
    assert tokens.ids.shape[1] == int(tokens.eot.max()) + 1 <= tiny_backbone.dims.context_length


def test_embedded_is_deep_enough_for_every_recipe() -> None:
    backbone = load_backbone("embedded")
    assert min(backbone.dims.text_depth, backbone.dims.vision_depth) >= 8


def test_too_long_a_sentence_is_refused_by_name(tiny_backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"tokens; .* reads at most"):
        tiny_backbone.tokenize(["ok", "word " * 200])


def test_hash_does_not_depend_on_precision_but_on_weights(tiny_folder: Path) -> None:
    full, half = load_backbone(str(tiny_folder)), load_backbone(str(tiny_folder), dtype="bfloat16")
    assert full.weight_hash == half.weight_hash and half.dtype == torch.bfloat16
    before = weight_hash(full.model)
    with torch.no_grad():
        full.model.logit_scale += 1e-3
    assert weight_hash(full.model) != before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_precisions_encode(tiny_folder: Path, dtype: str) -> None:
    backbone = load_backbone(str(tiny_folder), dtype=dtype)
    with torch.no_grad():
        image = backbone.encode_image(pixels(backbone).to(backbone.dtype))
    assert image.shape == (3, backbone.dims.embed) and bool(torch.isfinite(image).all())


def edited(folder: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of a model folder with changes in its config, keys like "text_config.hidden_act"."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for key, value in changes.items():
        *parents, last = key.split(".")
        target = config
        for parent in parents:
            target = target[parent]
        target[last] = value
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_mixed_activations_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    copy = edited(tiny_folder, tmp_path, **{"text_config.hidden_act": "gelu_new"})
    with pytest.raises(UserError, match="gelu_new"):
        load_backbone(str(copy))


def test_openai_weights_with_the_wrong_activation_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    copy = edited(tiny_folder, tmp_path, **{"text_config.hidden_act": "gelu", "vision_config.hidden_act": "gelu"})
    target = tmp_path / "openai" / "clip-vit-base-patch16"
    target.parent.mkdir()
    copy.rename(target)
    with pytest.raises(UserError, match="quick_gelu"):
        load_backbone(str(target))


def test_missing_model_says_what_to_do() -> None:
    with pytest.raises(UserError, match="'embedded' needs no download"):
        load_backbone("no-such-org/no-such-model")


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_backbone(str(tmp_path))


def test_missing_weights_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = edited(tiny_folder, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("visual_projection.weight")
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"visual_projection\.weight"):
        load_backbone(str(copy))


@pytest.mark.parametrize(("key", "value"), [("device", "cud"), ("device", "cuda:7"), ("dtype", "float8")])
def test_bad_device_and_dtype(tiny_folder: Path, key: str, value: str) -> None:
    with pytest.raises(UserError):
        load_backbone(str(tiny_folder), **{key: value})  # type: ignore[arg-type]
