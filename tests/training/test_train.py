"""The training loop: schedule, order, resume, determinism, and what happens when a loss breaks."""

from __future__ import annotations

import dataclasses
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.training.loop import NonFiniteLoss, TrainConfig, epoch_order, fit, make_optimizer
from anprompt.utils.files import read_tensors
from tests.fake_views import FakeViews

NAMES = ["cat", "red panda", "fire engine"]
SMALL = {"n_tokens": 2, "token_width": 8, "projection_rank": 2, "rank": 1, "draws": 2}


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


def test_a_watcher_gets_loss_parts_outside_the_graph(tiny_backbone: Backbone) -> None:
    """Progress bars and curves read numbers; a part in the graph makes torch warn in front of the user."""
    seen: list[dict[str, Tensor]] = []
    views = FakeViews(tiny_backbone.dims.image_size)
    fit(build(tiny_backbone), views, CONFIG, on_step=lambda epoch, number, steps, parts: seen.append(parts))
    assert seen and all(len(parts) > 1 for parts in seen)
    assert not any(part.requires_grad for parts in seen for part in parts.values())


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

    with pytest.raises(NonFiniteLoss, match=r"loss part 'ce' is NaN or Inf at epoch 2, step 1\."):
        fit(method, views, CONFIG, state=tmp_path, on_epoch=poison)
    resumed = build(tiny_backbone)
    assert fit(resumed, views, CONFIG, state=tmp_path).resumed_from == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_precisions_and_optimisers(tiny_backbone: Backbone, tmp_path: Path, precision: str, optimizer: str) -> None:
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
     {"seed": -1}, {"crop_scale": [0.9, 0.5]}, {"crop_scale": [0.5]}, {"epochs": 2.5}, {"flip": 1}, {"epoch": 3},
     {"views": -1}, {"view_seed": -2}, {"trunk_precision": "fp8"}],
)  # fmt: skip
def test_bad_recipes_are_refused(values: dict) -> None:
    with pytest.raises(UserError):
        TrainConfig.from_dict(values)


# --- NaN, Inf, fp16 -------------------------------------------------------------------------------
class Tampered:
    """A method whose loss, or the gradient of one tensor, is spoilt from one step on."""

    def __init__(self, method: Method, *, part: str = "", tensor: str = "", step: int = 0, until: int = 10**9) -> None:
        self.part, self.step, self.until, self.now = part, step, until, -1
        self.real = method.loss
        method.loss = self  # type: ignore[assignment]
        if tensor:
            parameter = dict(method.named_parameters())[tensor]
            parameter.register_hook(lambda g: g * float("inf") if self.spoils() else g)

    def spoils(self) -> bool:
        return self.step <= self.now < self.until

    def __call__(self, *args: object) -> dict[str, Tensor]:
        self.now = args[3]  # type: ignore[assignment]
        parts = self.real(*args)  # type: ignore[arg-type]
        if self.part and self.spoils():
            parts[self.part] = parts[self.part] + float("inf")
        return parts


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("what", [{"part": "wa"}, {"tensor": "projection_up"}])
def test_what_breaks_is_named_and_the_last_epoch_comes_back(
    tiny_backbone: Backbone, tmp_path: Path, precision: str, what: dict
) -> None:
    """Three steps an epoch, two good epochs, and then a break at the second step of the third."""
    config = TrainConfig(epochs=40, batch_size=2, lr=1e-2, precision=precision)
    views = FakeViews(tiny_backbone.dims.image_size)
    good = build(tiny_backbone)
    done: list[dict[str, Tensor]] = []
    Tampered(good, step=7, **what)
    with pytest.raises(NonFiniteLoss) as caught:
        fit(good, views, config, state=tmp_path, on_epoch=lambda *a: done.append(tensors(good)))
    name = what.get("part") or what["tensor"]
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)
    # With fp16 the steps whose gradients break are left out until the scale is used up.
    if precision != "fp16" or "part" in what:
        assert "at epoch 3, step 2. " in str(caught.value) and len(done) == 2
    assert equal(done[-1], tensors(good))
    assert all(bool(torch.isfinite(value).all()) for value in tensors(good).values())
    kept = read_tensors(tmp_path / "state.safetensors")[0]
    assert all(torch.equal(kept[f"method.{name}"], value) for name, value in done[-1].items())


def test_fp16_leaves_out_overflowing_steps_and_counts_them(
    tiny_backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(epochs=3, batch_size=2, lr=1e-2, precision="fp16")
    views = FakeViews(tiny_backbone.dims.image_size)
    plain, hit = build(tiny_backbone), build(tiny_backbone)
    base = fit(plain, views, config)
    Tampered(hit, tensor="tokens", step=7, until=8)  # one step of the third epoch
    log = fit(hit, views, config)
    extra = [b.get("skipped_steps", 0) - a.get("skipped_steps", 0) for a, b in zip(base.epochs, log.epochs)]
    assert extra == [0, 0, 1]
    assert all(bool(torch.isfinite(value).all()) for value in tensors(hit).values())
    assert any("left out 1 steps of epoch 3" in record.getMessage() for record in caplog.records)


def test_resume_in_fp16_keeps_the_loss_scale(tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, batch_size=2, lr=1e-2, precision="fp16")
    views = FakeViews(tiny_backbone.dims.image_size)
    whole, first, resumed = build(tiny_backbone), build(tiny_backbone), build(tiny_backbone)
    for method in (whole, first, resumed):
        Tampered(method, tensor="tokens", step=1, until=2)
    fit(whole, views, config)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, views, config, state=tmp_path, on_epoch=stop)
    content = json.loads(read_tensors(tmp_path / "state.safetensors")[1]["anprompt"])
    assert content["scaler"]["scale"] < 65536
    fit(resumed, views, config, state=tmp_path)
    assert equal(tensors(whole), tensors(resumed))


def test_an_overflowing_optimiser_is_noticed(tiny_backbone: Backbone) -> None:
    """A gradient of 1e30 makes AdamW's square Inf: the tensor stays finite and would never move again."""
    method = build(tiny_backbone)
    method.tokens.register_hook(lambda g: torch.full_like(g, 1e30))  # type: ignore[union-attr, operator]
    with pytest.raises(NonFiniteLoss, match="tokens"):
        fit(method, FakeViews(tiny_backbone.dims.image_size), CONFIG)


class Reads(TorchDispatchMode):
    """Counts how often a number is read off a tensor: on a device each of them waits."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_step_reads_a_number_off_a_tensor(tiny_backbone: Backbone, optimizer: str) -> None:
    counts = []
    for pictures in (4, 4, 24):  # what torch reads once, at the first step of a process, does not count
        config = TrainConfig(epochs=1, batch_size=2, optimizer=optimizer)
        views = FakeViews(tiny_backbone.dims.image_size, pictures)
        views.train_batch = lambda indices, epoch, n=views.size: torch.zeros(len(indices), 3, n, n)  # type: ignore
        method = build(tiny_backbone)
        with Reads() as reads:
            fit(method, views, config)
        counts.append(reads.count)
    assert counts[1] == counts[2]


def test_default_recipes_keep_their_old_keys() -> None:
    """States, adapters and records from before the later settings stay valid."""
    assert set(TrainConfig().to_dict()) == {
        "optimizer", "lr", "weight_decay", "momentum", "epochs", "batch_size", "warmup_epochs", "warmup_lr",
        "precision", "crop_scale", "flip", "seed",
    }  # fmt: skip
    later = {"views": 3, "view_seed": 0, "trunk_precision": "bf16"}
    assert later.items() <= TrainConfig.from_dict(later).to_dict().items()


def test_every_setting_of_the_recipe_is_documented_with_its_default() -> None:
    entries = dict(re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", TrainConfig.__doc__ or "", re.M | re.S))
    for entry in dataclasses.fields(TrainConfig):
        default = {"True": "true", "False": "false", "()": "empty"}.get(str(entry.default), entry.default)
        words = f'"{default}"' if entry.type == "str" else str(default)
        said = re.search(r"Default (.+)\.\s*$", entries.get(entry.name, ""))
        assert said, f"{entry.name} has no 'Default ...' in TrainConfig's docstring"
        given = said[1] if not isinstance(entry.default, float) else str(float(Fraction(said[1])))
        assert given == words, entry.name


def test_the_fused_optimiser_equals_the_plain_one(tiny_backbone: Backbone) -> None:
    config = TrainConfig(lr=1e-2, weight_decay=0.1)
    results = []
    for plain in (False, True):
        method = build(tiny_backbone)
        made = make_optimizer(method, config)
        assert made.defaults["fused"]
        if plain:
            made = torch.optim.AdamW(method.parameters(), config.lr, weight_decay=config.weight_decay, fused=False)
        generator = torch.Generator().manual_seed(0)
        for _ in range(8):
            for parameter in method.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            made.step()
        results.append(tensors(method))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-6, atol=1e-7)
