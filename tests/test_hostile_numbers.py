"""Adapters with numbers that are none, and models that give none: one line, never an answer (docs/security.md)."""

# ruff: noqa: F811 (fixtures are imported from a neighbour)

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import anprompt as ap
from anprompt.adapters.adapter import TENSORS, load_adapter, save_adapter
from anprompt.adapters.checks import LARGEST_VALUE
from anprompt.backbones import Backbone, load_backbone
from anprompt.commands.main import main
from anprompt.data.sources import open_dataset
from anprompt.errors import NotFinite, UserError
from anprompt.evaluation.calibration import calibrate
from anprompt.methods import build_method
from anprompt.training.job import score

from .test_hostile import adapter, edit, refused  # noqa: F401

# --- tensors --------------------------------------------------------------------------------------
TENSOR_VALUES: dict[str, Any] = {
    "1e30": 1e30, "-1e30": -1e30, "just too large": 2 * LARGEST_VALUE, "largest of fp32": 3.4e38,
    "Inf": float("inf"), "-Inf": float("-inf"), "NaN": float("nan"), "denormals": 1e-40, "smallest denormal": -1e-45,
}  # fmt: skip


@pytest.mark.parametrize("case", TENSOR_VALUES)
@pytest.mark.parametrize("whole", [True, False], ids=["all", "one"])
def test_absurd_tensors_are_refused_by_name(case: str, whole: bool, adapter: Path, tiny_backbone: Backbone) -> None:
    tensors = load_file(adapter / TENSORS)
    name = sorted(tensors)[0]
    spoilt = torch.full_like(tensors[name], TENSOR_VALUES[case]) if whole else tensors[name].clone()
    spoilt.view(-1)[0] = TENSOR_VALUES[case]
    save_file({**tensors, name: spoilt}, adapter / TENSORS)
    if "denormal" in case and not whole:
        load_adapter(edit(adapter), backbone=tiny_backbone)  # a single one is a number that training may give
        return
    assert name in refused(edit(adapter), tiny_backbone)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool])
def test_whole_numbers_are_no_prompts(dtype: torch.dtype, adapter: Path, tiny_backbone: Backbone) -> None:
    tensors = load_file(adapter / TENSORS)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name].to(dtype)}, adapter / TENSORS)
    assert "not floating point" in refused(edit(adapter), tiny_backbone)


@pytest.mark.parametrize("value", [1e30, float("nan")])
def test_a_method_that_went_astray_is_not_saved(value: float, tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = build_method("coop", tiny_backbone, ["cat", "dog"])
    with torch.no_grad():
        next(method.parameters()).view(-1)[3] = value
    with pytest.raises(UserError, match="tensor 'context' holds"):
        save_adapter(tmp_path / "out", method)
    assert not (tmp_path / "out").exists()


# --- config.json ----------------------------------------------------------------------------------
BAD_CALIBRATIONS: list[Any] = [
    {"temperature": value} for value in (1e-320, 0, -1, 1e-9, 0.04, 21, 1e30, 1e308, True, "1", None, [1.0])
] + [
    {"temperature": 1.0, "threshold": 1.5}, {"temperature": 1.0, "threshold": -0.1}, {"threshold": 1e300},
    {"threshold": "0.5"}, {"threshold": True}, {"accept": 0}, {"accept": 2}, {"accept": "most"}, {"pictures": -1},
    {"pictures": 1e300}, {"nll": 3}, {"nll": [1]}, {"nll": [-1, 0]}, {"ece": ["a", "b"]}, {"ece": {}}, [1.0], "1.0", 3,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_CALIBRATIONS, ids=str)
def test_absurd_calibrations_are_refused(value: Any, adapter: Path, tiny_backbone: Backbone) -> None:
    assert "calibrat" in refused(edit(adapter, record={"calibration": value}), tiny_backbone)


@pytest.mark.parametrize("value", [0.05, 1, 20.0])
def test_bounds_of_a_temperature_are_fine(value: float, adapter: Path, tiny_backbone: Backbone) -> None:
    edit(adapter, record={"calibration": {"temperature": value, "threshold": 0.0, "accept": 1.0}})
    assert load_adapter(adapter, backbone=tiny_backbone).temperature == value


@pytest.mark.parametrize(
    "settings",
    [{"logit_scale": 1e9}, {"logit_scale": -1.0}, {"logit_scale": 1e-320}, {"logit_scale": 50_000}, {"logit_scale": "hot"},
     {"logit_scale": True}, {"head_weight": 1e30}, {"head_weight": -1e300}],
    ids=str,
)  # fmt: skip
def test_absurd_settings_are_refused(settings: dict[str, Any], adapter: Path, tiny_backbone: Backbone) -> None:
    config = json.loads((adapter / "config.json").read_text())
    name = next(iter(settings))
    if name not in config["settings"]:
        name, settings = "logit_scale", {"logit_scale": 1e30}
    assert name in refused(edit(adapter, settings={**config["settings"], **settings}), tiny_backbone)


@pytest.mark.parametrize("preset", ["coop", "maple", "zeroshot", "mmrl-per-dataset"])
def test_a_preset_of_another_method_is_refused(preset: str, adapter: Path, tiny_backbone: Backbone) -> None:
    line = refused(edit(adapter, preset=preset), tiny_backbone)
    assert "anprompt" in line and preset.split("-")[0] in line


# --- answers --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def broken(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with one NaN in its image tower: every answer is NaN."""
    import shutil

    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("broken") / "clip"))
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def broken_adapter(broken: Path, tmp_path: Path) -> Path:
    names = ["blue_square", "green", "red", "yellow"]
    method = build_method("coop", load_backbone(broken), names)
    return save_adapter(tmp_path / "broken", method)


def test_no_command_answers_with_nan(
    broken_adapter: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = next(photo_folder.glob("*/*.png"))
    names = ",".join(sorted(path.name for path in photo_folder.iterdir()))
    commands = [
        ["predict", str(broken_adapter), str(picture)],
        ["predict", str(broken_adapter), str(picture), "--json", "--classes", "a,b"],
        ["predict", "zeroshot", str(picture), "--classes", names, "--backbone", str(broken_adapter.parent / "x")],
        ["eval", str(broken_adapter), "--data", str(photo_folder)],
    ]
    config = json.loads((broken_adapter / "config.json").read_text())
    commands[2][-1] = config["backbone"]["id"]
    for words in commands:
        capsys.readouterr()
        assert main(words) == 2, words
        out, err = capsys.readouterr()
        assert "not finite numbers" in err and len(err.splitlines()) == 1 and "nan" not in out.lower(), words


def test_no_python_call_answers_with_nan(broken_adapter: Path, photo_folder: Path, broken: Path) -> None:
    classifier = ap.load(broken_adapter)
    picture = str(next(photo_folder.glob("*/*.png")))
    data = open_dataset(str(photo_folder))
    calls = {
        "predict": lambda: classifier.predict([picture]),
        "predict_proba": lambda: classifier.predict_proba([picture], ["a", "b"]),
        "decision_function": lambda: classifier.decision_function([picture]),
        "score": lambda: score(build_method("zeroshot", load_backbone(broken), data.classnames), data),
        "calibrate": lambda: calibrate(build_method("zeroshot", load_backbone(broken), data.classnames), data),
    }
    for name, call in calls.items():
        with pytest.raises(NotFinite, match="not finite"):
            call()
            pytest.fail(name)


def test_a_temperature_set_to_nothing_is_no_answer(tiny_backbone: Backbone, photo_folder: Path) -> None:
    data = open_dataset(str(photo_folder))
    method = build_method("coop", tiny_backbone, data.classnames)
    method.temperature = 1e-320
    with pytest.raises(NotFinite):
        score(method, data)


def test_the_service_says_it_is_its_own_fault(broken: Path) -> None:
    from anprompt.serve.engine import Engine, Task

    backbone = load_backbone(broken)
    engine = Engine(build_method("coop", backbone, ["cat", "dog"]))
    size = backbone.dims.image_size
    view = np.zeros((size, size, 3), np.uint8)
    for zeroshot in (False, True):
        (answer,) = engine.run([Task(view, ("cat", "dog"), zeroshot)])
        assert isinstance(answer, NotFinite)


def test_an_export_of_nan_is_not_kept(broken: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from anprompt.adapters.onnx import _refuse_differences, differences, export_onnx

    method = build_method("coop", load_backbone(broken), ["cat", "dog"])
    with pytest.raises(UserError, match="not finite numbers"):
        export_onnx(method, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists() and callable(differences)
    for value in (float("nan"), float("inf"), 1.0):
        with pytest.raises(UserError, match="not kept"):
            _refuse_differences({"logits": value})


def test_broken_text_features_are_not_exported(broken: Path, tiny_backbone: Backbone) -> None:
    from anprompt.adapters.onnx import text_matrix

    backbone = copy.deepcopy(tiny_backbone)
    with torch.no_grad():
        backbone.model.text_projection.weight[0, 0] = torch.nan
    with pytest.raises(NotFinite):
        text_matrix(build_method("zeroshot", backbone, ["cat", "dog"]), ["cat", "dog"])
