"""The training loop: schedule, order, resume, determinism, and what happens when a loss breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.train import NonFiniteLoss, TrainConfig, epoch_order, fit

NAMES = ["cat", "red panda", "fire engine"]
SMALL = {"n_tokens": 2, "token_width": 8, "projection_rank": 2, "rank": 1, "draws": 2}


class FakeViews:
    """Random pictures whose train view depends on (index, epoch), as real views do."""

    fingerprint = "fake"

    def __init__(self, size: int, count: int = 7) -> None:
        self.size, self.labels = size, torch.arange(count) % len(NAMES)

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, indices: Tensor, epoch: int) -> Tensor:
        rows = [torch.Generator().manual_seed(1000 * epoch + int(i)) for i in indices]
        return torch.stack([torch.randn(3, self.size, self.size, generator=g) for g in rows])


def build(backbone: Backbone, seed: int = 1) -> Method:
    return build_method("anprompt", backbone, NAMES, settings=SMALL, seed=seed)


def tensors(method: Method) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in method.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


CONFIG = TrainConfig(epochs=3, batch_size=2, lr=1e-2, warmup_epochs=1)


def test_schedule_is_the_fields() -> None:
    """Constant warm-up, then a cosine over all epochs that starts at lr after the warm-up."""
    config = TrainConfig(epochs=10, lr=1.0, warmup_epochs=1, warmup_lr=0.5)
    rates = [config.lr_at(e) for e in range(10)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    expected = [0.5]
    for _ in range(9):
        expected.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    assert rates == pytest.approx(expected)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = torch.cat(epoch_order(10, 3, seed=0, epoch=1))
    assert torch.equal(first, torch.cat(epoch_order(10, 3, seed=0, epoch=1)))
    assert not torch.equal(first, torch.cat(epoch_order(10, 3, seed=0, epoch=2)))
    assert not torch.equal(first, torch.cat(epoch_order(10, 3, seed=1, epoch=1)))
    assert len(first) == 9 and len(set(first.tolist())) == 9
    assert len(torch.cat(epoch_order(2, 32, seed=0, epoch=0))) == 2


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(tiny_backbone: Backbone) -> None:
    before = {k: v.clone() for k, v in tiny_backbone.state_dict().items()}
    views = FakeViews(tiny_backbone.dims.image_size)
    views.train_batch = lambda indices, epoch: FakeViews.train_batch(views, indices, 0)  # type: ignore[method-assign]
    method = build_method("anprompt", tiny_backbone, NAMES, settings={**SMALL, "logit_scale": 30.0}, seed=1)
    log = fit(method, views, TrainConfig(epochs=12, batch_size=7, lr=2e-2, warmup_epochs=0))
    assert log.epochs[-1]["ce"] < 0.7 * log.epochs[0]["ce"]
    assert equal(before, dict(tiny_backbone.state_dict()))
    assert log.steps == 12 and {"loss", "wa", "lr"} <= log.epochs[0].keys()


def test_same_seed_same_adapter_and_seed_zero_is_a_seed(tiny_backbone: Backbone) -> None:
    results = {}
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(run) % 1000)  # the global state must not matter
        method = build(tiny_backbone, seed)
        fit(method, FakeViews(tiny_backbone.dims.image_size), TrainConfig(epochs=2, batch_size=2, seed=seed))
        results[run] = tensors(method)
    assert equal(results["a"], results["b"]) and not equal(results["a"], results["c"])


def test_resume_equals_an_uninterrupted_run(tiny_backbone: Backbone, tmp_path: Path) -> None:
    views = FakeViews(tiny_backbone.dims.image_size)
    whole = build(tiny_backbone)
    fit(whole, views, CONFIG)

    class Killed(Exception):
        pass

    def die(epoch: int, step: int, steps: int, parts: object) -> None:
        if epoch == 1 and step == 1:
            raise Killed

    with pytest.raises(Killed):
        fit(build(tiny_backbone), views, CONFIG, state=tmp_path, on_step=die)
    resumed = build(tiny_backbone)
    log = fit(resumed, views, CONFIG, state=tmp_path)
    assert log.resumed_from == 1 and len(log.epochs) == 3
    assert equal(tensors(whole), tensors(resumed))


def test_a_finished_state_is_not_trained_again(tiny_backbone: Backbone, tmp_path: Path) -> None:
    views = FakeViews(tiny_backbone.dims.image_size)
    fit(build(tiny_backbone), views, CONFIG, state=tmp_path)
    steps = []
    fit(build(tiny_backbone), views, CONFIG, state=tmp_path, on_step=lambda *a: steps.append(a))
    assert not steps


def test_foreign_and_damaged_state_are_refused(tiny_backbone: Backbone, tmp_path: Path) -> None:
    views = FakeViews(tiny_backbone.dims.image_size)
    fit(build(tiny_backbone), views, CONFIG, state=tmp_path)
    with pytest.raises(UserError, match="another run"):
        fit(build(tiny_backbone, seed=2), views, CONFIG, state=tmp_path)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="Can't read tensors"):
        fit(build(tiny_backbone), views, CONFIG, state=tmp_path)


def test_nan_names_the_part_and_keeps_the_last_epoch(tiny_backbone: Backbone, tmp_path: Path) -> None:
    views = FakeViews(tiny_backbone.dims.image_size)
    method = build(tiny_backbone)

    def poison(epoch: int, means: dict[str, float]) -> None:
        with torch.no_grad():
            method.tokens.fill_(float("nan"))  # type: ignore[union-attr, operator]

    with pytest.raises(NonFiniteLoss, match=r"'ce' \(and tensor 'tokens'\) is NaN or Inf at epoch 2, step 1\."):
        fit(method, views, CONFIG, state=tmp_path, on_epoch=poison)
    resumed = build(tiny_backbone)
    assert fit(resumed, views, CONFIG, state=tmp_path).resumed_from == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_precisions_and_optimisers(
    tiny_backbone: Backbone, tmp_path: Path, precision: str, optimizer: str
) -> None:
    method = build(tiny_backbone)
    config = TrainConfig(epochs=2, batch_size=3, precision=precision, optimizer=optimizer)
    log = fit(method, FakeViews(tiny_backbone.dims.image_size), config, state=tmp_path)
    assert all(p.dtype == torch.float32 and bool(torch.isfinite(p).all()) for p in method.parameters())
    assert torch.isfinite(torch.tensor(log.epochs[-1]["loss"]))


def test_validation_is_recorded_every_epoch(tiny_backbone: Backbone) -> None:
    method = build(tiny_backbone)
    log = fit(method, FakeViews(tiny_backbone.dims.image_size), CONFIG, validate=lambda: 0.5)
    assert [e["val_accuracy"] for e in log.epochs] == [0.5] * 3


def test_labels_outside_the_class_list(tiny_backbone: Backbone) -> None:
    views = FakeViews(tiny_backbone.dims.image_size)
    views.labels = views.labels + 1
    with pytest.raises(UserError, match="3 classes"):
        fit(build(tiny_backbone), views, CONFIG)


def test_nothing_to_train(tiny_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="nothing to train"):
        fit(build_method("zeroshot", tiny_backbone, NAMES), FakeViews(tiny_backbone.dims.image_size), CONFIG)


@pytest.mark.parametrize(
    "values",
    [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"precision": "fp8"}, {"optimizer": "adam"},
     {"seed": -1}, {"crop_scale": [0.9, 0.5]}, {"crop_scale": [0.5]}, {"epochs": 2.5}, {"flip": 1}, {"epoch": 3}],
)  # fmt: skip
def test_bad_recipes_are_refused(values: dict) -> None:
    with pytest.raises(UserError):
        TrainConfig.from_dict(values)
