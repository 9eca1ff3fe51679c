"""`--recipe auto` and the visual head: chosen on training images alone, saved, exported, used for trained classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.data.sources import open_dataset
from anprompt.data.types import Item
from anprompt.errors import UserError
from anprompt.methods import Classifier
from anprompt.methods.visual_head import ridge
from anprompt.testing.toys import tiny_image_folder
from anprompt.training.auto import Trial, best_weight, candidates, choose, preferred, split, steps_of_selection
from anprompt.training.job import Job, plan, run

LIGHT: dict[str, Any] = {"draws": 2, "token_width": 16}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_folder(tmp_path_factory.mktemp("auto") / "photos", images=16)


def job_of(photos: Path, backbone: Backbone, shots: int = 4, **train: Any) -> Job:
    return plan(
        open_dataset(str(photos)),
        backbone,
        shots=shots,
        recipe="few-shot",
        settings=LIGHT,
        train={"epochs": 2, **train},
    )


# --- choosing ---------------------------------------------------------------------------------------
def test_choosing_opens_training_images_alone(photos: Path, tiny_backbone: Backbone) -> None:
    """A reader that writes down what is opened: nothing of the validation and test parts is."""
    job, opened = job_of(photos, tiny_backbone), set()
    read = job.dataset.read

    def recording(item: Item) -> Any:
        opened.add(item.path)
        return read(item)

    watched = dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, read=recording))
    assert watched.dataset.val and watched.dataset.test
    found = choose(watched, fixed={})
    assert opened == {item.path for item in job.dataset.train}
    assert not opened & {item.path for item in (*job.dataset.val, *job.dataset.test)}
    assert found.evidence["kept"] + found.evidence["held_out"] == len(job.dataset.train)


def test_the_choice_is_decided_by_the_seed_and_bounded(photos: Path, tiny_backbone: Backbone) -> None:
    job = job_of(photos, tiny_backbone)
    first, second = choose(job, fixed={}), choose(job, fixed={})
    assert first == second
    before, after = steps_of_selection(job)
    assert 0 < before <= after
    kept, held = split(job)
    assert not set(kept) & set(held) and len(held) == 4 and split(job) == (kept, held)
    labels = [item.label for item in job.dataset.train]
    assert {labels[index] for index in held} == set(labels), "one image of every class is held out"


def test_what_the_caller_sets_stays(photos: Path, tiny_backbone: Backbone) -> None:
    job = job_of(photos, tiny_backbone)
    assert [c["similarity_weight"] for c in candidates(job)] == [0.5, 2.0]
    assert candidates(job, {"similarity_weight": 7.0}) == [{}]
    found = choose(job, fixed={"similarity_weight": 2.0, "visual_weight": 3.0, "views": 2})
    assert found.settings == {} and found.train == {"visual_weight": 3.0}
    assert found.applied(job).settings.to_dict()["similarity_weight"] == 2.0


def test_one_image_a_class_asks_zero_shot_how_far_to_trust_it(photos: Path, tiny_backbone: Backbone) -> None:
    found = choose(job_of(photos, tiny_backbone, shots=1), fixed={})
    assert found.evidence["held_out"] == 0 and 0 <= found.evidence["zero_shot_accuracy"] <= 1
    assert found.train["visual_weight"] == (50.0 if found.evidence["zero_shot_accuracy"] < 0.5 else 5.0)


def test_a_later_candidate_must_be_better_by_a_standard_error() -> None:
    def trial(accuracy: float) -> Trial:
        return Trial({"a": accuracy}, 1.0, accuracy, 100, {})

    assert preferred([trial(0.80), trial(0.83)]).accuracy == 0.80
    assert preferred([trial(0.80), trial(0.85)]).accuracy == 0.85
    lonely = {0.0: (0.5, 0.0), 5.0: (0.9, 0.0), 10.0: (0.5, 0.0), 20.0: (0.8, 0.0), 50.0: (0.8, 0.0), 100.0: (0.8, 0.0)}
    assert best_weight({}, lonely, 50).weight in (50.0, 100.0)


# --- the visual head ----------------------------------------------------------------------------------
def test_ridge_equals_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 2, 5, generator=draw), torch.arange(12) % 3
    weight, bias = ridge(x, y, 3, 0.1)
    rows = x.reshape(24, 5).double().numpy()
    spread = ((rows - rows.mean(0)) ** 2).mean(0).sum()
    theirs = Ridge(alpha=0.1 * spread * len(rows)).fit(rows, np.eye(3)[y.repeat_interleave(2).numpy()])
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, atol=1e-5)


@pytest.mark.parametrize("name", ["coop", "mmrl", "anprompt"])
def test_trained_classes_get_the_head_and_others_the_text_alone(
    name: str, photos: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    settings = {"anprompt": LIGHT, "mmrl": {"token_width": 16}}.get(name, {})
    data = open_dataset(str(photos))
    made = {}
    for weight in (0.0, 20.0):
        train = {"epochs": 1, "batch_size": 8, "visual_weight": weight}
        made[weight] = run(plan(data, tiny_backbone, method=name, shots=2, settings=settings, train=train)).method
    plain, headed = made[0.0], made[20.0]
    assert plain.visual_head is None and "visual_head.weight" in headed.state_dict()
    assert headed.trained_parameters() == plain.trained_parameters()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    others = ["lynx", *data.classnames]
    assert torch.equal(Classifier(plain, others).logits(pixels), Classifier(headed, others).logits(pixels))
    assert not torch.allclose(Classifier(plain).logits(pixels), Classifier(headed).logits(pixels), atol=1e-3)
    head = headed.visual_head
    assert head is not None
    by_hand = Classifier(plain).logits(pixels) + head(headed.embedding(headed.image_state(pixels))).detach()
    torch.testing.assert_close(Classifier(headed).logits(pixels), by_hand, atol=1e-4, rtol=1e-4)
    part = Classifier(headed, list(reversed(data.classnames))).logits(pixels).flip(1)
    torch.testing.assert_close(part, by_hand, atol=2e-3, rtol=1e-3)
    opened = load_adapter(save_adapter(tmp_path / "adapter", headed), backbone=tiny_backbone)
    assert torch.equal(Classifier(opened).logits(pixels), Classifier(headed).logits(pixels))


def test_the_head_is_in_the_exported_file(photos: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from anprompt.adapters import onnx as export

    train = {"epochs": 1, "batch_size": 8, "visual_weight": 20.0}
    method = run(
        plan(
            open_dataset(str(photos)), tiny_backbone, method="mmrl", shots=2, settings={"token_width": 16}, train=train
        )
    ).method
    done = export.export_onnx(method, tmp_path / "model.onnx", check=False)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tiny_backbone.mean, tiny_backbone.std))
    found = onnxruntime.InferenceSession(str(done.path)).run(None, {"pixels": pixels.numpy()})[0]
    np.testing.assert_allclose(found, Classifier(method).logits((pixels - mean) / std).numpy(), atol=1e-3)


def test_a_probe_has_no_second_head(photos: Path, tiny_backbone: Backbone) -> None:
    job = plan(open_dataset(str(photos)), tiny_backbone, method="ncm", shots=2, train={"visual_weight": 1.0})
    with pytest.raises(UserError, match="visual_weight is for methods that are trained by steps; ncm"):
        run(job)


# --- the command line -----------------------------------------------------------------------------------
def test_fit_without_a_recipe_chooses_tells_and_records(
    photos: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from anprompt.training import auto

    half = auto.with_values
    monkeypatch.setattr(auto, "with_values", lambda job, settings, train: half(job, settings, {**train, "epochs": 1}))
    out = tmp_path / "adapter"
    command = ["fit", "--data", str(photos), "--backbone", str(tiny_folder), "--shots", "2", "--out", str(out)]
    assert main([*command, "--method", "coop"]) == 0
    told = capsys.readouterr().out
    assert "a linear probe" in told and "prompts are being trained" in told and "auto: at most" in told
    record = json.loads((out / "config.json").read_text())["record"]
    assert record["recipe"] == "auto" and record["auto"]["chosen"]["visual_weight"] >= 0
    assert main([*command, "--method", "coop"]) == 0
    assert "already holds the adapter of this very run" in capsys.readouterr().out
    assert main([*command, "--method", "ncm", "--recipe", "auto"]) == 2
    assert "ncm is trained in one go" in capsys.readouterr().err
    assert main([*command, "--recipe", "autp"]) == 2
    assert "Did you mean 'auto'?" in capsys.readouterr().err
