"""docs/add-a-method.md is run as it is printed: the file, the entry point, the use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import build_method, methods, preset_names
from tests.plugins import blocks, install

PAGE = "add-a-method.md"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tutorial's package as pip would leave it: a module, and metadata with its entry points."""
    install(tmp_path, "my_vpt", PAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    methods.cache_clear()
    yield
    methods.cache_clear()
    sys.modules.pop("my_vpt", None)


def test_entry_point_makes_it_a_method(plugin: None, tiny_backbone: Backbone) -> None:
    assert "visual" in preset_names()
    method = build_method("visual", tiny_backbone, ["cat", "dog"], settings={"n_tokens": 3})
    assert method.trained_parameters() == 3 * 3 * tiny_backbone.dims.vision_width
    with pytest.raises(UserError, match="Did you mean 'n_tokens'"):
        build_method("visual", tiny_backbone, ["cat"], settings={"n_token": 3})


def test_the_page_is_true_of_its_own_use(plugin: None, tiny_folder: Path, capsys: Any) -> None:
    code = blocks(PAGE, "python")[1]
    exec(compile(code, "docs/add-a-method.md", "exec"), {"BACKBONE": str(tiny_folder), "torch": torch})
    assert "torch.Size([2, 3])" in capsys.readouterr().out


def test_it_keeps_the_contract(plugin: None) -> None:
    exec(compile(blocks(PAGE, "python")[2], "docs/add-a-method.md", "exec"), {})


def test_a_plugin_cannot_take_a_built_in_name(plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = tmp_path / "my_vpt-0.1.dist-info" / "entry_points.txt"
    points.write_text("[anprompt.methods]\ncoop = my_vpt:VPT\n")
    methods.cache_clear()
    assert methods()["coop"].__module__ == "anprompt.methods.coop"


def test_a_method_fits_in_one_short_file() -> None:
    import anprompt.methods

    folder = Path(anprompt.methods.__file__).parent
    for path in folder.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 280, path.name
    assert len(blocks(PAGE, "python")[0].splitlines()) < 90
