"""Temperature and threshold: what mathematics asks of them, on adapters, and from the command line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import anprompt
from anprompt.adapters.calibration_record import of_adapter, save_calibration
from anprompt.backbones import Backbone
from anprompt.classifier import PromptClassifier
from anprompt.commands.main import main
from anprompt.data.sources import open_dataset
from anprompt.errors import UserError
from anprompt.evaluation.calibration import (
    MOST,
    NONE,
    Calibration,
    acceptance_threshold,
    calibrate,
    ece,
    fit_temperature,
    from_record,
    nll,
)
from anprompt.methods import Classifier, build_method
from anprompt.serve.engine import Engine, Task

SMALL = {"token_width": 16, "draws": 2}


def drawn(temperature: float, n: int = 4000, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `temperature` times too sure: labels are drawn from softmax(z / temperature)."""
    generator = torch.Generator().manual_seed(3)
    z = 2 * torch.randn(n, classes, generator=generator)
    return z * temperature, torch.multinomial(z.softmax(dim=-1), 1, generator=generator)[:, 0]


# --- what mathematics asks ------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_a_known_model_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.06)
    if temperature != 1:
        assert ece(logits / found, labels) < 0.03 < ece(logits, labels)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 4))
def test_never_worse_and_follows_the_scale(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(60, 4, generator=generator)
    labels = torch.where(torch.rand(60, generator=generator) < 0.5, logits.argmax(1), torch.arange(60) % 4)
    found = fit_temperature(logits, labels)
    assert nll(logits / found, labels) <= nll(logits, labels)
    again = fit_temperature(logits * scale, labels)
    if 0.2 < found < 5 and 0.2 < again < 5:
        assert again == pytest.approx(found * scale, rel=0.01)


def test_all_right_and_all_wrong_stay_within_bounds() -> None:
    logits = 5 * torch.eye(4)
    assert 0.04 < fit_temperature(logits, torch.arange(4)) < 1
    assert 1 < fit_temperature(logits, torch.tensor([1, 2, 3, 0])) <= MOST + 1e-9


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_threshold_accepts_the_share_and_no_larger_one_does(scores: list[float], accept: float) -> None:
    values = np.array(scores)
    found = acceptance_threshold(values, accept)
    assert (values >= found).mean() >= accept - 1e-9
    higher = values[values > found + 1e-6]
    if len(higher):
        assert (values >= higher.min()).mean() < accept or higher.min() - found < 2e-6


# --- on adapters ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(tiny_backbone: Backbone, photo_folder: Path) -> PromptClassifier:
    quick = {"epochs": 2, "warmup_epochs": 0, "lr": 5e-3}
    clf = PromptClassifier(tiny_backbone, shots=4, settings=SMALL, train=quick, calibrate="temperature", accept=0.9)
    return clf.fit(photo_folder)


def val_pictures(photo_folder: Path) -> tuple[list[str], list[str]]:
    items = open_dataset(photo_folder).val
    return [item.path for item in items], [item.classname for item in items]


def test_fit_calibrates_on_validation_pictures(made: PromptClassifier, photo_folder: Path) -> None:
    found, (paths, names) = made.calibration_, val_pictures(photo_folder)
    assert found.pictures == len(paths) == 8 and found.nll[1] <= found.nll[0]
    shares = made.predict_proba(paths)
    index = [list(made.classes_).index(name) for name in names]
    measured = -np.log(shares[np.arange(len(paths)), index]).mean()
    assert measured == pytest.approx(found.nll[1], abs=1e-4)  # what is served is what was fitted
    made.method_.temperature, kept = 1.0, made.method_.temperature
    try:
        bare = Classifier(made.method_)
    finally:
        made.method_.temperature = kept
    assert kept == found.temperature != 1 and bare.temperature == 1


def test_none_of_these(made: PromptClassifier, photo_folder: Path) -> None:
    paths, _ = val_pictures(photo_folder)
    plain, asked = made.predict(paths), made.predict(paths, none_of_these=True)
    kept = asked != NONE
    assert kept.mean() >= 0.9 and (asked[kept] == plain[kept]).all()
    assert set(made.predict(paths, none_of_these=1.0)) == {NONE}
    assert (made.predict(paths, ["lynx", "puma"], none_of_these=0.0) != NONE).all()
    with pytest.raises(UserError, match="another list"):
        made.predict(paths, ["lynx", "puma"], none_of_these=True)
    assert made.predict([], none_of_these=True).shape == (0,)


def test_other_lists_keep_their_probabilities(made: PromptClassifier) -> None:
    assert made.classifier(["lynx", "puma"]).temperature == 1
    assert made.classifier().temperature == made.calibration_.temperature


def test_it_travels_with_the_adapter(made: PromptClassifier, photo_folder: Path, tmp_path: Path) -> None:
    paths, _ = val_pictures(photo_folder)
    folder = made.save(tmp_path / "a")
    again = anprompt.load(folder)
    assert again.calibration_ == made.calibration_ == of_adapter(folder)
    assert np.abs(again.predict_proba(paths) - made.predict_proba(paths)).max() < 1e-5
    assert list(again.predict(paths, none_of_these=True)) == list(made.predict(paths, none_of_these=True))
    task = Task(np.zeros((32, 32, 3), np.uint8), again.method_.trained_classnames)
    [served] = Engine(again.method_).run([task])
    offline = again.predict_proba(np.zeros((32, 32, 3), np.uint8))[0]
    assert np.abs(served.adapter.softmax(0).numpy() - offline).max() < 1e-5  # type: ignore[union-attr]


def test_numbers_for_labels(tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path) -> None:
    paths = sorted(photo_folder.glob("[rb]*/[0-5].png"))
    y = [7 if path.parent.name == "red_square" else 3 for path in paths]
    clf = PromptClassifier(
        tiny_backbone, settings=SMALL, train={"epochs": 1, "warmup_epochs": 0}, accept=0.5,
        names={7: "red_square", 3: "blue square"},
    ).fit(paths, y)  # fmt: skip
    assert clf.classes_.tolist() == [3, 7] and 0 < clf.calibration_.pictures < len(paths) / 2  # about a fifth
    assert clf.calibration_.temperature == 1  # not asked for
    assert clf.method_.trained_classnames == ("blue square", "red_square")
    assert set(clf.predict(paths, none_of_these=1.0)) == {-1}
    again = anprompt.load(clf.save(tmp_path / "a"))
    assert again.classes_.tolist() == [3, 7] and again.score(paths, y) == clf.score(paths, y)


def test_pictures_of_other_classes_are_left_out(tiny_backbone: Backbone, photo_folder: Path) -> None:
    data = open_dataset(photo_folder)
    some = build_method("coop", tiny_backbone, ["red square", "yellow square"])
    assert calibrate(some, data, accept=1.0).pictures == 4
    with pytest.raises(UserError, match="no val pictures of the classes"):
        calibrate(build_method("coop", tiny_backbone, ["lynx", "puma"]), data)


@pytest.mark.parametrize(
    "value", [[], {"temprature": 2}, {"temperature": "2"}, {"temperature": 0}, {"threshold": 7}, {"temperature": True}]
)
def test_a_damaged_record_is_named(value: object) -> None:
    with pytest.raises(UserError, match="anprompt calibrate"):
        from_record(value, "Adapter 'a'")


# --- from the command line ------------------------------------------------------------------------
def test_the_commands(
    adapter_folder: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, picture = tmp_path / "adapter", photo_folder / "red_square" / "0.png"
    shutil.copytree(adapter_folder, folder)

    def json_of(*words: object) -> dict:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    before = (folder / "adapter.safetensors").read_bytes()
    assert main(["predict", str(folder), str(picture), "--none-of-these"]) == 2
    assert "No threshold" in capsys.readouterr().err
    told = json_of("calibrate", folder, "--data", photo_folder, "--accept", "0.75")
    assert told["temperature"] == of_adapter(folder).temperature and told["pictures"] == 8  # type: ignore[union-attr]
    assert (folder / "adapter.safetensors").read_bytes() == before
    answer = json_of("predict", folder, picture, "--none-of-these")["predictions"][0]
    offline = anprompt.load(folder).predict_proba(picture).max()
    assert answer["none_of_these"] == (offline < told["threshold"])
    assert answer["top"][0]["probability"] == pytest.approx(offline, abs=1e-5)
    assert json_of("predict", folder, picture, "--threshold", "1")["predictions"][0]["none_of_these"]
    tested = json_of("eval", folder, "--data", photo_folder, "--split", "val")
    assert tested["calibration_error"] == pytest.approx(told["ece"][1], abs=1e-5)
    assert main(["predict", str(folder), str(picture), "--threshold", "1"]) == 0
    assert NONE in capsys.readouterr().out
    for words, said in (
        (["calibrate", "zeroshot", "--data", photo_folder], "does not exist"),
        (["calibrate", folder, "--data", photo_folder, "--accept", "2"], "share"),
        (["predict", folder, picture, "--none-of-these", "--classes", "lynx,puma"], "another list"),
        (["predict", "zeroshot", picture, "--none-of-these", "--classes", "lynx,puma"], "--threshold"),
    ):
        assert main([*map(str, words)]) == 2
        assert said in capsys.readouterr().err


def test_saving_again_replaces(adapter_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folder, folder)
    for temperature in (2.0, 3.0):
        save_calibration(folder, Calibration(temperature, 0.5, 0.9, 4, (1.0, 0.5), (0.2, 0.1)))
    found = of_adapter(folder)
    assert found == Calibration(3.0, 0.5, 0.9, 4, (1.0, 0.5), (0.2, 0.1)) and math.isfinite(found.nll[0])
