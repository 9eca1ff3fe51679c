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
from anprompt.testing import check_method
from tests.methods.test_methods_contract import LIGHT, TRAINED
from tests.plugins import blocks, install

PAGE = "add-a-backbone.md"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backbone]:
    """The page's model, opened by its name."""
    (tmp_path / "packages").mkdir()
    install(tmp_path / "packages", "my_toy", PAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield load_backbone("toy:small")
    sys.modules.pop("my_toy", None)


def test_it_keeps_the_contract(toy: Backbone) -> None:
    exec(compile(blocks(PAGE, "python")[2], PAGE, "exec"), {})
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = start = toy.pre_norm(toy.embed_image(x))
    for block in toy.image_blocks:
        whole = block(whole, causal=False)
    assert torch.equal(toy.run_image(start), whole)


def test_precision_changes_no_hash(toy: Backbone) -> None:
    half = load_backbone("toy:small", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.weight_hash == toy.weight_hash
    assert not any(p.requires_grad for p in half.parameters()) and not half.training


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_runs_on_it(method: str, toy: Backbone) -> None:
    check_method(method, toy, settings=LIGHT.get(method, {}), only=["step_changes_own_tensors_alone", "engines_agree"])


def test_the_use_as_printed_and_an_adapter_that_finds_it_again(toy: Backbone, tmp_path: Path) -> None:
    names: dict = {}
    exec(compile(blocks(PAGE, "python")[1], PAGE, "exec"), names)
    save_adapter(tmp_path / "adapter", names["method"])
    again = load_adapter(tmp_path / "adapter")
    assert again.backbone.id == "toy:small" and again.trained_classnames == ("cat", "dog")
    config = tmp_path / "adapter" / "config.json"
    for name in (
        "toys:small",
        "toy:../small",
        "toy:a b",
        "toy:",
        "toy:x:y",
    ):  # nothing but a name of an installed package
        config.write_text(config.read_text().replace('"toy:small"', f'"{name}"'))
        with pytest.raises(UserError, match="not a hub id"):
            load_adapter(tmp_path / "adapter")
        config.write_text(config.read_text().replace(f'"{name}"', '"toy:small"'))


def test_other_names_are_refused_in_one_line(toy: Backbone) -> None:
    with pytest.raises(UserError, match="Unknown toy model 'large'"):
        load_backbone("toy:large")
    with pytest.raises(UserError, match="toys:small"):
        load_backbone("toys:small")
