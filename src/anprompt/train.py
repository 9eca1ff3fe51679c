"""One training loop for every method.

Everything random is a pure function of (seed, epoch), so a run that is interrupted and resumed at
an epoch boundary goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from anprompt.backbones.base import Backbone
from anprompt.errors import UserError, choices
from anprompt.files import atomic_write, read_tensors, write_tensors
from anprompt.methods.base import Method, MethodConfig
from anprompt.prompting import ClassBank

log = logging.getLogger("anprompt")

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIMIZERS = ("adamw", "sgd")
SMALL_WIDTH = 384  # vision width below which a second thread gains nothing


@dataclass(frozen=True)
class TrainConfig(MethodConfig):
    """The training recipe; presets fill it, `--set` changes it.

    Attributes:
        lr, warmup_lr: the rate is `warmup_lr` for `warmup_epochs`, then a cosine from `lr`, one value
            per epoch (the field's schedule).
        precision: "fp32", "bf16" or "fp16" autocast; parameters and optimiser stay fp32.
        crop_scale: area range of the random resized crop.
        seed: of initialisation, order and views; 0 is a seed.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9
    epochs: int = 10
    batch_size: int = 4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    precision: str = "fp32"
    crop_scale: tuple[float, ...] = (0.5, 1.0)
    flip: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise choices("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in PRECISIONS:
            raise choices("precision", self.precision, PRECISIONS)
        for key, least in (("epochs", 1), ("batch_size", 1), ("warmup_epochs", 0), ("seed", 0)):
            if getattr(self, key) < least:
                raise UserError(f"Training: {key} must be at least {least}, not {getattr(self, key)}.")
        for key in ("weight_decay", "momentum", "warmup_lr"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UserError(f"Training: {key} must be a number from 0, not {getattr(self, key)}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"Training: lr must be a positive number, not {self.lr}.")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(
                f"Training: crop_scale must be two numbers 0 < low <= high <= 1, not {self.crop_scale}."
            )

    def lr_at(self, epoch: int) -> float:
        """Learning rate of epoch `epoch` (from 0): constant warm-up, then cosine over all epochs."""
        if epoch < self.warmup_epochs:
            return self.warmup_lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - self.warmup_epochs) / self.epochs))


class TrainViews(Protocol):
    """What the loop needs of a set of pictures (`anprompt.data.views.Views` is one)."""

    labels: Tensor
    fingerprint: str

    def __len__(self) -> int: ...

    def train_batch(self, indices: Any, epoch: int) -> Tensor: ...


@dataclass
class TrainLog:
    """What happened: mean loss parts per epoch, seconds, steps, validation accuracy where asked for."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    resumed_from: int = 0


class NonFiniteLoss(UserError):
    """A loss part became NaN or Inf; the last good state is on disk where a state folder was given."""


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch, a pure function of (seed, epoch); a last short batch is dropped
    unless it is the only one, as the field's loader does."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator)
    full = count // batch_size * batch_size
    return list(order[:full].split(batch_size)) if full else [order]


def make_optimizer(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the method's own parameters."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    if not parameters:
        raise UserError(f"Method {method.name!r} has nothing to train; use it with 'eval' or 'predict'.")
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Autocast for "bf16"/"fp16", nothing for "fp32"."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


@contextlib.contextmanager
def threads_for(backbone: Backbone) -> Iterator[None]:
    """One thread for a small model on the CPU, as many as torch likes for a large one.

    Layers this narrow gain nothing from a second thread, and waiting for it on a busy machine makes a
    step tens of times slower.
    """
    before = torch.get_num_threads()
    if backbone.device.type == "cpu" and backbone.dims.vision_width < SMALL_WIDTH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


StepHook = Callable[[int, int, int, Mapping[str, Tensor]], None]
EpochHook = Callable[[int, dict[str, float]], None]


def fit(
    method: Method,
    views: TrainViews,
    config: TrainConfig,
    *,
    state: Path | None = None,
    validate: Callable[[], float] | None = None,
    on_step: StepHook | None = None,
    on_epoch: EpochHook | None = None,
) -> TrainLog:
    """Train a method in place.

    Args:
        views: pictures with labels in the order of `method.trained_classnames`.
        state: folder for the resumable state, written after every epoch; an existing one of the same
            run is continued, one of another run is refused.
        validate: called after every epoch; its accuracy goes into the log.
        on_step: (epoch, step in epoch, steps per epoch, loss parts) for progress bars.
        on_epoch: (epoch, mean parts) once an epoch is safe on disk.

    Raises:
        UserError: nothing to train, no pictures, labels outside the class list, foreign state.
        NonFiniteLoss: NaN or Inf in a loss part, named with its step.
    """
    check_labels(views, len(method.trained_classnames))
    device = method.backbone.device
    optimizer = make_optimizer(method, config)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    with autocast(device, config.precision):
        bank = method.prepare(method.trained_classnames)
    run = run_key(method, config, views)
    train_log = load_state(state, method, optimizer, run) if state else TrainLog()
    train_log.resumed_from = len(train_log.epochs)
    method.train()
    for epoch in range(len(train_log.epochs), config.epochs):
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(epoch)
        means, steps = run_epoch(method, views, config, epoch, bank, optimizer, scaler, on_step)
        method.after_epoch(epoch, config.epochs)
        train_log.steps += steps
        train_log.seconds += time.perf_counter() - started
        if validate:
            method.eval()
            means["val_accuracy"] = validate()
            method.train()
        train_log.epochs.append({"lr": config.lr_at(epoch), **means})
        if state:
            save_state(state, method, optimizer, run, train_log)
        if on_epoch:
            on_epoch(epoch, train_log.epochs[-1])
    method.eval()
    return train_log


def run_epoch(
    method: Method, views: TrainViews, config: TrainConfig, epoch: int, bank: ClassBank,
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, on_step: StepHook | None,
) -> tuple[dict[str, float], int]:  # fmt: skip
    """One pass over the pictures; returns mean loss parts and the number of steps."""
    device, dtype = method.backbone.device, method.backbone.dtype
    batches = epoch_order(len(views), config.batch_size, config.seed, epoch)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        pixels = views.train_batch(batch, epoch).to(device, dtype, non_blocking=True)
        labels = views.labels[batch].to(device, non_blocking=True)
        with autocast(device, config.precision):
            vision = method.see(pixels)
            parts = method.loss(vision, labels, bank, epoch * len(batches) + number)
        total = torch.stack([part.float() for part in parts.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        for key, part in {"loss": total, **parts}.items():
            sums[key] = sums.get(key, 0.0) + part.detach().float()
        if on_step:
            on_step(epoch, number, len(batches), {"loss": total.detach(), **parts})
        # A look at the sums needs a device sync, so it happens now and then, not at every step.
        if number % 50 == 49 or number + 1 == len(batches):
            check_finite(sums, method, epoch, number)
    return {key: float(value) / len(batches) for key, value in sums.items()}, len(batches)


def check_finite(sums: Mapping[str, Tensor], method: Method, epoch: int, number: int) -> None:
    """`NonFiniteLoss` naming the first broken loss part, or the first broken tensor."""
    for key, value in sums.items():
        if key != "loss" and not torch.isfinite(value):
            raise NonFiniteLoss(_broken(f"loss part {key!r}", epoch, number))
    for name, parameter in method.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFiniteLoss(_broken(f"tensor {name!r}", epoch, number))


def _broken(what: str, epoch: int, number: int) -> str:
    return (
        f"Training broke: {what} is NaN or Inf by epoch {epoch + 1}, step {number + 1}. Lower the learning rate "
        "(--set lr=...), or use --precision fp32; the last finished epoch is kept."
    )


def check_labels(views: TrainViews, classes: int) -> None:
    """`UserError` unless there are pictures and every label fits the class list."""
    if not len(views):
        raise UserError("No pictures to train on.")
    if int(views.labels.min()) < 0 or int(views.labels.max()) >= classes:
        raise UserError(f"Labels run to {int(views.labels.max())}, but the method has {classes} classes.")


# --- resumable state ------------------------------------------------------------------------------
def run_key(method: Method, config: TrainConfig, views: TrainViews) -> str:
    """Fingerprint of everything that decides a run; a state of another run must not be continued."""
    labels = hashlib.sha256(views.labels.to("cpu", torch.int64).numpy().tobytes()).hexdigest()
    fields = [
        method.name, method.config.to_dict(), config.to_dict(), list(method.trained_classnames), method.template,
        method.seed, method.backbone.weight_hash, labels, views.fingerprint,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def save_state(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, run: str, train_log: TrainLog
) -> None:
    """Tensors and log in one file, replaced atomically: a kill at any moment leaves the last epoch whole."""
    tensors = {f"method.{k}": v for k, v in method.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors.update(
            {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items() if v is not None}
        )
    text = json.dumps({"run": run, "log": dataclasses.asdict(train_log)})
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "state.safetensors", lambda path: write_tensors(path, tensors, {"anprompt": text}))


def load_state(folder: Path, method: Method, optimizer: torch.optim.Optimizer, run: str) -> TrainLog:
    """Continue from `folder` if it holds a state of this very run.

    Raises:
        UserError: the state belongs to another run, or the file is damaged.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        return TrainLog()
    tensors, meta = read_tensors(path)
    content = json.loads(meta.get("anprompt", "{}"))
    if content.get("run") != run:
        raise UserError(
            f"{path} is the state of another run (other data, settings, seed or backbone). "
            "Choose another --out folder, or delete that one to start afresh."
        )
    method.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("method.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            index, name = key.split(".", 2)[1:]
            state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    log.info("resuming after %d finished epochs from %s", len(content["log"]["epochs"]), path)
    return TrainLog(**content["log"])
