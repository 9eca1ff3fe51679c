"""One training loop for every method.

Everything random is a pure function of (seed, epoch), so a run that is interrupted and resumed at
an epoch boundary goes on exactly as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.errors import UserError, choices
from anprompt.methods.base import Gather, Method, MethodConfig
from anprompt.prompting.compute import PRECISIONS, autocast, threads_for
from anprompt.prompting.memory import LessMemory
from anprompt.prompting.process_group import Team
from anprompt.training.distributed import load_state_of_first, split_batches
from anprompt.training.feature_cache import MemoryBank, ViewBank
from anprompt.training.frozen_features import Looks, TrainViews
from anprompt.training.state import (
    NonFiniteLoss,
    TrainLog,
    Watch,
    check_space,
    load_state,
    run_key,
    save_state,
)

__all__ = [
    "PRECISIONS", "NonFiniteLoss", "Run", "TrainConfig", "TrainLog", "TrainViews", "epoch_order",
    "fit", "fit_many", "make_optimizer", "run_key", "threads_for",
]  # fmt: skip

log = logging.getLogger("anprompt")

OPTIMIZERS = ("adamw", "sgd")
TRUNK_PRECISIONS = ("full", "bf16")
FUSED = ("cpu", "cuda")
CHECK_EVERY = 50  # steps between two looks for NaN and Inf
_LATER = ("views", "view_seed", "trunk_precision")  # left out of `to_dict` at their defaults: see there


@dataclass(frozen=True)
class TrainConfig(MethodConfig):
    """The training recipe; presets fill it, `--set` changes it.

    Attributes:
        lr, warmup_lr: the rate is `warmup_lr` for `warmup_epochs`, then a cosine from `lr`, one value
            per epoch (the field's schedule). A run with no more epochs than that warms up for half of them,
            rounded down; see `warmup`.
        precision: "fp32", "bf16" or "fp16" autocast; parameters and optimiser stay fp32.
        crop_scale: area range of the random resized crop.
        seed: of initialisation, order and views; 0 is a seed.
        views: views per picture; 0 draws a fresh one every epoch (`Views` says what that means for the
            statistics).
        view_seed: draws the views in place of `seed`, the same for runs of all seeds; -1 means `seed`.
        trunk_precision: "full", or "bf16": the trunk activations of training views are rounded to bf16,
            with or without a view bank, which then needs half the space.
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
    views: int = 0
    view_seed: int = -1
    trunk_precision: str = "full"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise choices("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in PRECISIONS:
            raise choices("precision", self.precision, PRECISIONS)
        if self.trunk_precision not in TRUNK_PRECISIONS:
            raise choices("trunk_precision", self.trunk_precision, TRUNK_PRECISIONS)
        least_of = {"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "seed": 0, "views": 0, "view_seed": -1}
        for key, least in least_of.items():
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values. Settings that came later appear only where they are set, so that the keys of
        records, adapters and states from before stay what they were."""
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        return {k: v for k, v in super().to_dict().items() if k not in _LATER or v != defaults[k]}

    def lr_at(self, epoch: int) -> float:
        """Learning rate of epoch `epoch` (from 0): constant warm-up, then cosine over all epochs."""
        if epoch < self.warmup:
            return self.warmup_lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs))

    @property
    def warmup(self) -> int:
        """Epochs of warm-up that a run of this length has.

        A warm-up as long as the run would leave nothing: every learning rate would give the same adapter.
        """
        return self.warmup_epochs if self.warmup_epochs < self.epochs else self.epochs // 2

    def warmup_line(self) -> str | None:
        """What to say of a warm-up that was shortened, or takes half of the run or more; else None."""
        if 2 * self.warmup < self.epochs and self.warmup == self.warmup_epochs:
            return None
        part = f"{self.warmup} of {self.epochs} epochs" if self.warmup else "none"
        asked = f"; the recipe's {self.warmup_epochs} would be the whole run" if self.warmup != self.warmup_epochs else ""
        return f"warm-up at learning rate {self.warmup_lr:g}: {part}{asked}"


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch, a pure function of (seed, epoch); a last short batch is dropped
    unless it is the only one, as the field's loader does."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator)
    full = count // batch_size * batch_size
    return list(order[:full].split(batch_size)) if full else [order]


def make_optimizer(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the method's own parameters.

    AdamW goes over all of them in one kernel where torch has one: equal to the plain loop to rounding, a
    third of its time on a CPU, and without waiting for the device. SGD does not: after a first step that
    fp16 leaves out, torch's fused one has a momentum of whatever the memory held.
    """
    parameters = [p for p in method.parameters() if p.requires_grad]
    if not parameters:
        raise UserError(f"Method {method.name!r} has nothing to train; use it with 'eval' or 'predict'.")
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay)
    fused = all(p.device.type in FUSED and p.dtype == torch.float32 for p in parameters)
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)


StepHook = Callable[[int, int, int, Mapping[str, Tensor]], None]
EpochHook = Callable[[int, dict[str, float]], None]


class Run:
    """One method in training: its optimiser, its stream of batches, its log.

    Args:
        views: pictures with labels in the order of `method.trained_classnames`.
        state: folder for the resumable state, written after every epoch; an existing one of the same
            run is continued, one of another run is refused.
        validate: called after every epoch; its accuracy goes into the log.
        on_step: (epoch, step in epoch, steps per epoch, loss parts) for progress bars.
        on_epoch: (epoch, mean parts) once an epoch is safe on disk.
        team: the processes that share the run, each with the same arguments; None for this one alone.

    Raises:
        UserError: nothing to train, no pictures, labels outside the class list, foreign state.
    """

    def __init__(
        self,
        method: Method,
        views: TrainViews,
        config: TrainConfig,
        *,
        state: Path | None = None,
        validate: Callable[[], float] | None = None,
        on_step: StepHook | None = None,
        on_epoch: EpochHook | None = None,
        team: Team | None = None,
    ) -> None:
        check_labels(views, len(method.trained_classnames))
        self.method, self.views, self.config, self.state = method, views, config, state
        self.validate, self.on_step, self.on_epoch = validate, on_step, on_epoch
        self.device = method.backbone.device
        self.optimizer = make_optimizer(method, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.memory = LessMemory()
        self.team, self.share = team, 1.0
        self.across: dict[str, Gather] = {}  # what a loss on a slice of a batch gathers with
        self.failure: NonFiniteLoss | None = None
        self.log = TrainLog()

    def begin(self, bank: ViewBank | None) -> None:
        """Constants of the class list, and the state of an earlier start."""
        method, config = self.method, self.config
        if line := config.warmup_line():
            log.info("%s", line)
        with autocast(self.device, config.precision):
            self.classes = method.prepare(method.trained_classnames)
        self.key = run_key(method, config, self.views)
        if self.team:
            self._meet(self.team)
        elif self.state:
            check_space(self.state, method)
            self.log = load_state(self.state, method, self.optimizer, self.key, self.scaler)
        self.log.resumed_from = len(self.log.epochs)
        self.looks = Looks(method, self.views, config.precision, config.trunk_precision, bank)
        self.good = _copy(method)
        self.labels = self.views.labels.to(self.device)
        method.train()

    def _meet(self, team: Team) -> None:
        """All processes at one state of one run, and this one's share of every batch known."""
        count = min(self.config.batch_size, len(self.views))
        self.share, self.across = split_batches(team, self.method, count)
        team.agree(
            self.key, "The processes of this run see different data or models; give all of them the same files."
        )
        if self.state:
            self.log = load_state_of_first(
                team, self.state, self.method, self.optimizer, self.key, self.scaler
            )
        team.copy_first(self.method)

    def steps(self, epoch: int) -> Iterator[None]:
        """One pass over the pictures, a step at a time."""
        method, config, scaler = self.method, self.config, self.scaler
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(epoch)
        batches = epoch_order(len(self.views), config.batch_size, config.seed, epoch)
        watch, started = Watch(), time.perf_counter()
        for number, batch in enumerate(batches):
            if self.team:
                batch = batch[slice(*self.team.bounds(len(batch)))]
            vision = self.looks.batch(batch, epoch)
            parts = self._gradients(vision, batch, epoch * len(batches) + number)
            self._descend(watch, number)
            watch.add(parts, number)
            if self.on_step:
                self.on_step(epoch, number, len(batches), parts)
            # A look at the sums waits for the device, so it happens now and then, not at every step.
            if number % CHECK_EVERY == CHECK_EVERY - 1 or number + 1 == len(batches):
                watch.check(method, self.optimizer, scaler, epoch, number)
            self.log.seconds += time.perf_counter() - started
            yield
            started = time.perf_counter()
        self.log.steps += len(batches)
        self._finish(epoch, watch.means(len(batches)))

    def _gradients(self, vision: Any, batch: Tensor, step: int) -> dict[str, Tensor]:
        """Those of the whole batch, and its loss with the parts."""
        if self.team is None:
            return self.memory(self._backward, vision, batch, step)
        # No second try with less memory: the others would not know what they are asked for.
        return self.team.combine(self.method, self._backward(vision, batch, step), self.share)

    def _backward(self, vision: Any, batch: Tensor, step: int) -> dict[str, Tensor]:
        """Gradients, times this process's share of the batch, and the loss with its parts."""
        with autocast(self.device, self.config.precision):
            parts = self.method.loss(vision, self.labels[batch], self.classes, step, **self.across)
        total = torch.stack([part.float() for part in parts.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total if self.team is None else total * self.share).backward()
        return {"loss": total.detach(), **{name: part.detach() for name, part in parts.items()}}

    def _descend(self, watch: Watch, number: int) -> None:
        """The optimiser's step; with fp16, one whose gradients overflow is left out and counted."""
        fp16 = self.scaler.is_enabled()
        # As a tensor: asking for the number would wait for the device.
        before = self.scaler._get_scale_async().clone() if fp16 else torch.zeros(())  # type: ignore[union-attr]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not fp16:
            watch.add_gradients(self.method, number)
        else:
            watch.skipped = watch.skipped + (self.scaler._get_scale_async() < before)  # type: ignore[operator]

    def _finish(self, epoch: int, means: dict[str, float]) -> None:
        method, config = self.method, self.config
        method.after_epoch(epoch, config.epochs)
        if "skipped_steps" in means:
            log.warning(
                "fp16 left out %d steps of epoch %d: gradients overflowed", means["skipped_steps"], epoch + 1
            )
        if self.validate:
            method.eval()
            means["val_accuracy"] = self.validate()
            method.train()
        self.log.epochs.append({"lr": config.lr_at(epoch), **means})
        if self.team:
            self.team.copy_first(method)
        self.good = _copy(method)
        self.looks.flush()
        if self.state and (self.team is None or self.team.first):
            save_state(self.state, method, self.optimizer, self.key, self.log, self.scaler)
        if self.on_epoch:
            self.on_epoch(epoch, self.log.epochs[-1])

    def advance(self, steps: Iterator[None]) -> bool:
        """One step; False when the epoch is over or the run broke."""
        try:
            return next(steps, self) is None
        except NonFiniteLoss as error:
            self.method.load_state_dict(self.good)
            self.failure = error
            return False


def fit(
    method: Method,
    views: TrainViews,
    config: TrainConfig,
    *,
    state: Path | None = None,
    validate: Callable[[], float] | None = None,
    on_step: StepHook | None = None,
    on_epoch: EpochHook | None = None,
    bank: ViewBank | None = None,
    team: Team | None = None,
) -> TrainLog:
    """Train a method in place. The arguments are those of `Run`.

    Args:
        bank: keeps what the frozen encoder makes of the views; None computes it at every step.

    Raises:
        UserError: nothing to train, no pictures, labels outside the class list, foreign state.
        NonFiniteLoss: NaN or Inf, named with its step; the method is back at its last finished epoch.
    """
    run = Run(
        method, views, config, state=state, validate=validate, on_step=on_step, on_epoch=on_epoch, team=team
    )
    return _train([run], bank)[0]


def fit_many(runs: Sequence[Run], bank: ViewBank | None = None) -> list[TrainLog]:
    """Train several methods side by side, each as it would be alone, on common looks at the views.

    Runs that look at a view in the same way (same backbone and first prompted block) share what the frozen
    encoder makes of it: runs of one seed that differ in learning rate, loss weights or tokens share every
    batch and equal separate runs bit for bit; runs of different seeds share views where `view_seed` is
    given, and equal separate ones to rounding, as a view is then computed in the company of others.

    Args:
        bank: None keeps 512 MB in memory.

    Returns:
        The logs, in the order of the runs; shared looks count for the run that came first.

    Raises:
        NonFiniteLoss: of the first run that broke, when the others are finished.
    """
    return _train(runs, MemoryBank() if bank is None else bank)


def _train(runs: Sequence[Run], bank: ViewBank | None) -> list[TrainLog]:
    for run in runs:
        run.begin(bank)
    for epoch in range(max((run.config.epochs for run in runs), default=0)):
        active = [
            (run, run.steps(epoch))
            for run in runs
            if len(run.log.epochs) <= epoch < run.config.epochs and not run.failure
        ]
        while active:
            active = [(run, steps) for run, steps in active if run.advance(steps)]
    for run in runs:
        run.method.eval()
    for run in runs:
        if run.failure:
            raise run.failure
    return [run.log for run in runs]


def _copy(method: Method) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in method.state_dict().items()}


def check_labels(views: TrainViews, classes: int) -> None:
    """`UserError` unless there are pictures and every label fits the class list."""
    if not len(views):
        raise UserError("No pictures to train on.")
    if int(views.labels.min()) < 0 or int(views.labels.max()) >= classes:
        raise UserError(f"Labels run to {int(views.labels.max())}, but the method has {classes} classes.")
