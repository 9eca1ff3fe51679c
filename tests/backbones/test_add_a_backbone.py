"""docs/add-a-backbone.md is run as it is printed: the file, the entry point, the use with every method."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.backbones import Backbone, load_backbone
from anprompt.errors import UserError
from tests.methods import test_methods_contract as contract
from tests.plugins import blocks, install

PAGE = "add-a-backbone.md"
SENTENCES = ["a photo of a cat.", "a photo of a very large red fire engine.", "dog"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backbone]:
    """The page's model, opened by its name."""
    (tmp_path / "packages").mkdir()
    install(tmp_path / "packages", "my_toy", PAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield load_backbone("toy:small")
    sys.modules.pop("my_toy", None)


def test_blocks_are_the_model(toy: Backbone) -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    start = toy.pre_norm(toy.embed_image(x))
    whole = start
    for block in toy.image_blocks:
        whole = block(whole, causal=False)
    for split in (1, 2, 4):
        assert torch.equal(toy.run_image(toy.run_image(start, 1, split - 1), split), whole)
    together, alone = toy.encode_text(SENTENCES), torch.cat([toy.encode_text([s]) for s in SENTENCES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="at most 64"):
        toy.tokenize(["word " * 40])
    assert len(toy.tokenize(["word " * 40], cut=True).ids[0]) == 64


def test_precision_changes_no_hash(toy: Backbone) -> None:
    half = load_backbone("toy:small", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.weight_hash == toy.weight_hash
    assert not any(p.requires_grad for p in half.parameters()) and not half.training


@pytest.mark.parametrize("method", contract.TRAINED)
def test_every_method_runs_on_it(method: str, toy: Backbone) -> None:
    contract.test_a_step_changes_only_the_methods_own_tensors(method, toy)
    contract.test_shared_engine_equals_plain_path(method, toy)


def test_the_use_as_printed_and_an_adapter_that_finds_it_again(toy: Backbone, tmp_path: Path) -> None:
    names: dict = {}
    exec(compile(blocks(PAGE, "python")[1], PAGE, "exec"), names)
    save_adapter(tmp_path / "adapter", names["method"])
    again = load_adapter(tmp_path / "adapter")
    assert again.backbone.id == "toy:small" and again.trained_classnames == ("cat", "dog")
    config = tmp_path / "adapter" / "config.json"
    for name in ("toys:small", "toy:../small", "toy:a b", "toy:", "toy:x:y"):  # nothing but a name of an installed package
        config.write_text(config.read_text().replace('"toy:small"', f'"{name}"'))
        with pytest.raises(UserError, match="not a hub id"):
            load_adapter(tmp_path / "adapter")
        config.write_text(config.read_text().replace(f'"{name}"', '"toy:small"'))


def test_other_names_are_refused_in_one_line(toy: Backbone) -> None:
    with pytest.raises(UserError, match="Unknown toy model 'large'"):
        load_backbone("toy:large")
    with pytest.raises(UserError, match="toys:small"):
        load_backbone("toys:small")
