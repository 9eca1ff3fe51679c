"""What was trained and measured is what is said: reopened classifiers, short runs, small calibrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.base import clone

import anprompt as ap
from anprompt.adapters.adapter import CONFIG
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.evaluation.calibration import LEAST, MOST, fit_temperature
from anprompt.evaluation.doubts import TEMPERATURE_ERROR, doubts, images_needed
from anprompt.methods import preset
from anprompt.training.loop import TrainConfig

QUICK: dict[str, Any] = {"method": "coop", "shots": 2, "train": {"epochs": 1}}
PARAMETERS: dict[str, dict[str, Any]] = {
    "half of the classes": {"subset": "base"},
    "the other half": {"subset": "new", "shots": None},
    "all shots": {"shots": "all"},
    "own recipe": {"shots": 3, "seed": 7, "train": {"epochs": 2, "lr": 0.01, "crop_scale": (0.9, 1.0)}},
    "numpy's numbers": {"shots": np.int64(2), "seed": np.int64(3), "train": {"epochs": np.int32(1), "lr": np.float64(0.5)}},
    "seed 0": {"seed": 0},
    "settings": {"settings": {"n_context": 2, "context_init": ""}, "template": "a drawing of a {}."},
    "calibrated": {"calibrate": "temperature", "accept": 0.75},
    "no settings": {"settings": {}, "train": {}, "shots": 1},
    "half precision": {"dtype": "bfloat16"},
    "descriptions": {
        "method": "anprompt", "settings": {"token_width": 8, "draws": 1},
        "descriptions": {name: [f"{name} pixels"] for name in ("blue_square", "green square", "red_square", "yellow square", "violet")},
    },
}  # fmt: skip


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda v: v.item()))


def same_parameters(first: ap.PromptClassifier, second: ap.PromptClassifier) -> None:
    ours, theirs = first.get_params(deep=False), second.get_params(deep=False)
    assert ours.keys() == theirs.keys()
    for key in ours:
        if key == "backbone":
            assert type(ours[key]) is type(theirs[key])
        elif key == "names":
            assert ours[key] == theirs[key]
        else:
            assert as_json(ours[key]) == as_json(theirs[key]), key
            assert type(ours[key]) is type(theirs[key]) or isinstance(ours[key], np.generic), key


@pytest.mark.parametrize("case", PARAMETERS)
def test_a_reopened_classifier_equals_the_saved_one(
    case: str, tiny_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    first = ap.PromptClassifier(str(tiny_folder), **{**QUICK, **PARAMETERS[case]}).fit(str(photo_folder))
    opened = ap.load(first.save(tmp_path / "a"))
    same_parameters(first, opened)
    assert opened.classes_.tolist() == first.classes_.tolist() and opened.calibration_ == first.calibration_
    pictures = [str(path) for path in sorted(photo_folder.glob("*/1.png"))]
    np.testing.assert_array_equal(opened.predict_proba(pictures), first.predict_proba(pictures))
    assert opened.score(str(photo_folder)) == first.score(str(photo_folder))
    again = clone(opened).fit(str(photo_folder))
    for ours, theirs in zip(first.method_.state_dict().values(), again.method_.state_dict().values()):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    saved = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert json.loads((opened.save(tmp_path / "b") / CONFIG).read_text()) == saved


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1], {0: "red", 1: "green"}),
        ([10, 2], None),
        ([-1.0, 1.0], {-1.0: "red", 1.0: "green"}),
        (["r", "g"], {"r": "red", "g": "green", "unused": "blue"}),
        ([True, False], {True: "red", False: "green"}),
    ],
)
def test_labels_and_names_come_back(
    labels: list[Any], names: Any, tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    pictures = [str(photo_folder / name / f"{i}.png") for name in ("red_square", "green square") for i in range(3)]
    y = [labels[0]] * 3 + [labels[1]] * 3
    first = ap.PromptClassifier(tiny_backbone, **QUICK, names=names).fit(pictures, y)
    opened = ap.load(first.save(tmp_path / "a"), backbone=tiny_backbone)
    same_parameters(first, opened)
    assert opened.classes_.tolist() == first.classes_.tolist()
    assert opened.classes_.dtype.kind == first.classes_.dtype.kind
    np.testing.assert_array_equal(opened.predict(pictures), first.predict(pictures))
    again = clone(opened).fit(pictures, y)
    np.testing.assert_array_equal(again.predict_proba(pictures), first.predict_proba(pictures))


def test_the_command_lines_adapter_opens_with_its_parameters(
    tiny_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    words = ["fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--method", "coop", "--shots", "3",
             "--subset", "base", "--seed", "5", "--set", "n_context=2", "--set", "context_init=", "--epochs", "2"]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    opened = ap.load(tmp_path / "a")
    found = {
        key: opened.get_params()[key] for key in ("shots", "subset", "seed", "settings", "train", "method", "template")
    }
    assert found == {
        "shots": 3, "subset": "base", "seed": 5, "settings": {"n_context": 2, "context_init": ""},
        "train": {"epochs": 2}, "method": "coop", "template": None,
    }  # fmt: skip
    again = clone(opened).fit(str(photo_folder))
    pictures = [str(path) for path in sorted(photo_folder.glob("*/1.png"))]
    np.testing.assert_array_equal(again.predict_proba(pictures), opened.predict_proba(pictures))


def test_an_adapter_from_before_opens_with_its_recipe(
    tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    first = ap.PromptClassifier(tiny_backbone, method="coop", shots=16, seed=3, train={"epochs": 2, "lr": 0.01})
    folder = first.fit(str(photo_folder)).save(tmp_path / "a")
    config = json.loads((folder / CONFIG).read_text())
    del config["record"]["parameters"]
    (folder / CONFIG).write_text(json.dumps(config))
    opened = ap.load(folder, backbone=tiny_backbone)
    assert opened.get_params()["train"]["epochs"] == 2 and "seed" not in opened.get_params()["train"]
    pictures = [str(path) for path in sorted(photo_folder.glob("*/1.png"))]
    again = clone(opened).fit(str(photo_folder))
    np.testing.assert_array_equal(again.predict_proba(pictures), first.predict_proba(pictures))


@pytest.mark.parametrize(
    ("key", "value"),
    [("shots", -1), ("shots", "many"), ("shots", 1.5), ("subset", "evil"), ("accept", 7), ("names", {"a": 1}),
     ("names", [[1]]), ("names", [[[], "a"]]), ("names", [[1, "\x1b[2J"]]), ("settings", [1]), ("train", "fast"),
     ("template", 3), ("template", "\x1b {}"), ("calibrate", "yes"), ("descriptions", {"a": "b"}), ("device", "cuda"),
     ("dtype", "float8"), (None, [1]), (None, "x")],
)  # fmt: skip
def test_parameters_from_strangers_are_checked(
    key: str | None, value: Any, tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    folder = ap.PromptClassifier(tiny_backbone, **QUICK).fit(str(photo_folder)).save(tmp_path / "a")
    config = json.loads((folder / CONFIG).read_text())
    if key is None:
        config["record"]["parameters"] = value
    else:
        config["record"]["parameters"][key] = value
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=key or "parameters") as caught:
        ap.load(folder, backbone=tiny_backbone)
    assert str(caught.value).isprintable()


# --- folders of others ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(tiny_backbone: Backbone, photo_folder: Path) -> ap.PromptClassifier:
    return ap.PromptClassifier(tiny_backbone, **QUICK).fit(str(photo_folder))


FOREIGN = [
    "README.md",
    "config.json",
    "adapter.safetensors",
    "thesis.txt",
    ".env",
    ".gitignore",
    "src/main.py",
    ".git/HEAD",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_others_is_refused_and_stays(
    name: str, trained: ap.PromptClassifier, tiny_folder: Path, photo_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="holds other files") as caught:
        trained.save(tmp_path / "project")
    assert "overwrite=True" in str(caught.value)
    words = ["fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--method", "coop", "--shots", "1",
             "--epochs", "1", "--out", str(tmp_path / "project")]  # fmt: skip
    assert main(words) == 2 and "holds other files" in capsys.readouterr().err
    assert mine.read_text() == "mine" and [p.name for p in (tmp_path / "project").iterdir()] == [name.split("/")[0]]
    trained.save(tmp_path / "project", overwrite=True)
    assert ap.load(tmp_path / "project", backbone=trained.backbone).classes_.tolist() == trained.classes_.tolist()
    if mine.name not in ("README.md", "config.json", "adapter.safetensors"):
        assert mine.read_text() == "mine"


def test_another_runs_adapter_stays_and_the_same_is_replaced(
    trained: ap.PromptClassifier, tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    folder = trained.save(tmp_path / "a")
    (folder / ".DS_Store").write_text("")
    (folder / "notes.txt").write_text("mine")
    before = (folder / CONFIG).read_bytes()
    assert trained.save(folder) == folder and ap.load(folder, backbone=tiny_backbone).save(folder) == folder
    assert (folder / CONFIG).read_bytes() == before and (folder / "notes.txt").read_text() == "mine"
    for change in ({"seed": 2}, {"shots": 1}, {"method": "maple"}, {"subset": "base"}, {"train": {"epochs": 2}}):
        other = ap.PromptClassifier(tiny_backbone, **{**QUICK, **change}).fit(str(photo_folder))
        with pytest.raises(UserError, match="holds the adapter of another run"):
            other.save(folder)
        assert (folder / CONFIG).read_bytes() == before
    other.save(folder, overwrite=True)
    assert (folder / CONFIG).read_bytes() != before


def test_a_file_or_a_link_in_the_way(trained: ap.PromptClassifier, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name in ("file", "link"):
        with pytest.raises(UserError):
            trained.save(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine" and [p.name for p in (tmp_path / "full").iterdir()] == ["x"]


# --- a warm-up as long as the run -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("epochs", "asked", "rates"),
    [
        (1, 1, [1.0]),
        (1, 5, [1.0]),
        (2, 2, ["warm", 1.0]),
        (3, 3, ["warm", 1.0]),
        (4, 50, ["warm", "warm", 1.0]),
        (2, 1, ["warm", 1.0]),  # the recipe's own from here on: not a bit may move
        (3, 2, ["warm", "warm", 1.0]),
        (10, 1, ["warm", 1.0]),
        (50, 1, ["warm", 1.0]),
        (5, 0, [1.0]),
    ],
)
def test_a_short_run_is_not_all_warm_up(epochs: int, asked: int, rates: list[Any]) -> None:
    config = TrainConfig(epochs=epochs, warmup_epochs=asked, lr=1.0, warmup_lr=1e-5)
    assert [config.lr_at(epoch) for epoch in range(len(rates))] == [1e-5 if r == "warm" else r for r in rates]
    assert config.to_dict()["warmup_epochs"] == asked  # what identifies the run stays
    told = config.warmup_line()
    assert bool(told) == (asked >= epochs or 2 * asked >= epochs)


@pytest.mark.parametrize(
    "method", ["coop", "cocoop", "maple", "promptsrc", "mmrl", "mmrlpp", "anprompt", "anprompt-snapshot"]
)
def test_every_presets_only_epoch_trains_at_its_rate(method: str) -> None:
    recipe = preset(method)
    config = TrainConfig.from_dict({**recipe.train, "epochs": 1})
    assert config.lr_at(0) == config.lr > 50 * config.warmup_lr  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_the_learning_rate_of_one_epoch_has_an_effect_and_is_told(
    batch: int, tiny_folder: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--method", "coop", "--shots", "1",
             "--epochs", "1", "--batch-size", str(batch)]  # fmt: skip
    for rate in ("0.001", "0.1"):
        assert main([*words, "--lr", rate, "--out", str(tmp_path / rate)]) == 0
        assert "the recipe's 1 would be the whole run" in capsys.readouterr().out
    first, second = (load_file(tmp_path / rate / "adapter.safetensors")["context"] for rate in ("0.001", "0.1"))
    assert float((first - second).abs().max()) > 0.01


# --- calibrations on few images -------------------------------------------------------------------
def sample(count: int, right: float, classes: int = 3, scale: float = 4.0, only: int | None = None) -> tuple[Any, Any]:
    """Logits and labels: a share `right` of the answers is right."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, classes, (count,), generator=generator) if only is None else torch.full((count,), only)
    wrong = torch.arange(count) >= round(right * count)
    answers = torch.where(wrong, (labels + 1) % classes, labels)
    logits = torch.rand(count, classes, generator=generator)
    logits[torch.arange(count), answers] += 1 + scale * torch.rand(count, generator=generator)
    return logits, labels


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (sample(2, 1.0), "too few to tell; about 100 would do"),
        (sample(2, 0.0), "all answers are wrong"),
        (sample(1, 1.0), "all images are of the class"),
        (sample(500, 1.0), "all answers are right; use images it gets wrong, too"),
        (sample(300, 0.7, only=1), "all images are of the class 'b'"),
        (sample(8, 0.7), "would do"),
    ],
)
def test_a_temperature_that_nothing_tells_is_doubted(data: tuple[Any, Any], said: str) -> None:
    found = fit_temperature(*data)
    (line,) = doubts(*data, "abc", temperature=found, bounds=(LEAST, MOST), accept=None)
    assert said in line and line.startswith(f"temperature {found:.3g} from {len(data[1])} images")


def test_enough_images_are_not_doubted_and_the_number_holds() -> None:
    data = sample(2000, 0.7)
    found = fit_temperature(*data)
    needed = images_needed(*data, found)
    assert 20 <= needed < 2000
    assert not doubts(*data, "abc", temperature=found, bounds=(LEAST, MOST), accept=0.95)
    draws = [torch.randperm(2000, generator=torch.Generator().manual_seed(i))[:needed] for i in range(20)]
    spread = np.std([np.log(fit_temperature(data[0][rows], data[1][rows])) for rows in draws])
    assert spread > TEMPERATURE_ERROR / 4
    assert spread < 2 * TEMPERATURE_ERROR  # as many images as it asks for know the temperature


@pytest.mark.parametrize(("count", "accept", "needed"), [(2, 0.95, 20), (19, 0.95, 20), (50, 0.99, 100), (30, 0.5, 100),
                                                         (2, 1.0, 20)])  # fmt: skip
def test_a_threshold_from_too_few_images_is_doubted(count: int, accept: float, needed: int) -> None:
    (line,) = doubts(*sample(count, 0.5), "abc", temperature=None, bounds=(LEAST, MOST), accept=accept)
    assert line.startswith(f"threshold from {count} images") and f"at least {needed} would do" in line
    assert not doubts(*sample(needed, 0.5), "abc", temperature=None, bounds=(LEAST, MOST), accept=accept)


def test_doubts_are_told_in_python_and_on_the_command_line(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (photos / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (32, 32), tuple(c + index for c in colour)).save(photos / name / f"{index}.png")
    classifier = ap.PromptClassifier(str(tiny_folder), **QUICK, calibrate="temperature", accept=0.95).fit(str(photos))
    found = classifier.calibration_
    assert (
        found is not None and len(found.doubts) == 2 and [r.getMessage() for r in caplog.records] == list(found.doubts)
    )
    folder = classifier.save(tmp_path / "a")
    assert ap.load(folder).calibration_ == found
    words = ["calibrate", str(folder), "--data", str(photos), "--accept", "0.95"]
    capsys.readouterr()
    assert main(words) == 0
    assert [line.removeprefix("anprompt: ") for line in capsys.readouterr().err.splitlines()] == list(found.doubts)
    assert main([*words, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["doubts"] == list(found.doubts)
