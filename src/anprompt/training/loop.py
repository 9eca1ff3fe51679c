"""One training loop for every method: `train_epoch` and `training_step` are the whole of it.

Everything random is a pure function of (seed, epoch), so a run that is interrupted and resumed at
an epoch boundary goes on exactly as if nothing had happened. What is not needed for the gradients (means,
the look-out for NaN, validation, the state on disk, what people see) are `callbacks`.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.methods.base import Gather, Method
from anprompt.prompting.compute import PRECISIONS, autocast, threads_for
from anprompt.prompting.memory import LessMemory
from anprompt.prompting.process_group import Team
from anprompt.training.adversary import Adversary, adversarial_loss
from anprompt.training.callbacks import (
    OWN,
    Callback,
    Callbacks,
    EpochHook,
    Hooks,
    MeanLosses,
    Step,
    StepHook,
    Validation,
    named,
)
from anprompt.training.config import TrainConfig
from anprompt.training.distributed import split_batches
from anprompt.training.feature_cache import FeatureCache, MemoryFeatureCache
from anprompt.training.feature_fit import fit_features
from anprompt.training.frozen_features import FrozenFeatures, TrainViews
from anprompt.training.head_fit import fit_visual_head
from anprompt.training.nan_watch import NanWatch, NonFiniteLoss
from anprompt.training.state import ResumableState, TrainLog, run_key

__all__ = [
    "PRECISIONS", "Callback", "EpochHook", "NonFiniteLoss", "Run", "Step", "StepHook", "TrainConfig", "TrainLog",
    "TrainViews", "epoch_order", "fit", "fit_many", "make_optimizer", "run_key", "threads_for", "train_epoch",
    "training_step", "trial_steps",
]  # fmt: skip

log = logging.getLogger("anprompt")

FUSED = ("cpu", "cuda")
CHECK_EVERY = 50  # steps between two moments at which callbacks may wait for the device
DIFFERENT = "The processes of this run see different data or models; give all of them the same files."


# --- the loop -------------------------------------------------------------------------------------
def train_epoch(run: Run, epoch: int) -> Iterator[Step]:
    """One pass over the images, a step at a time, so that several runs can take turns.

    Args:
        run: one that has begun.
        epoch: from 0.
    """
    config, method = run.config, run.method
    for group in run.optimizer.param_groups:
        group["lr"] = config.lr_at(epoch)
    run.tell("on_epoch_begin", epoch)
    batches = epoch_order(len(run.views), config.batch_size, config.seed, epoch)
    for number, batch in enumerate(batches):
        started = time.perf_counter()
        parts = training_step(run, batch, epoch, epoch * len(batches) + number)
        step = Step(epoch, number, len(batches), parts)
        run.tell("on_step_end", step)
        if number % CHECK_EVERY == CHECK_EVERY - 1 or number + 1 == len(batches):
            run.tell("on_check", step)
        run.log.seconds += time.perf_counter() - started
        yield step
    run.log.steps += len(batches)
    method.after_epoch(epoch, config.epochs)
    if run.team:
        run.team.copy_first(method)
    run.looks.flush()
    run.log.epochs.append({"lr": config.lr_at(epoch)})
    run.tell("on_epoch_end", epoch, run.log.epochs[-1])


def training_step(run: Run, batch: Tensor, epoch: int, number: int) -> dict[str, Tensor]:
    """Image state, zero_grad, loss, backward, step.

    Args:
        batch: indices of its images, [B], of all processes together.
        number: of the step in the whole run, from 0; seeds the method's noise.

    Returns:
        The loss and its named parts over the whole batch: scalars on the device, outside the graph.
    """
    if run.team:
        batch = batch[slice(*run.team.bounds(len(batch)))]
    image_state = run.looks.batch(batch, epoch)
    labels = run.labels[batch]
    attacked = run.adversary.attacked(batch, image_state, labels, run.classes, epoch) if run.adversary else None

    def forward_backward() -> dict[str, Tensor]:  # may be begun again: what it made is gone then
        run.optimizer.zero_grad(set_to_none=True)
        with autocast(run.device, run.config.precision):
            if attacked is None:
                parts = run.method.loss(image_state, labels, run.classes, number, **run.across)
            else:
                parts = adversarial_loss(run.method, image_state, attacked, labels, run.classes, number, run.config)
        loss = torch.stack([part.float() for part in parts.values()]).sum()
        run.scaler.scale(loss * run.share).backward()
        return {"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}}

    if run.team is None:
        parts = run.memory(forward_backward)
    else:  # no second try with less memory: the others would not know what they are asked for
        parts = run.team.combine(run.method, forward_backward(), run.share)
    run.scaler.step(run.optimizer)  # with fp16, a step whose gradients overflow is left out
    run.scaler.update()
    return parts


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch, a pure function of (seed, epoch); a last short batch is dropped
    unless it is the only one, as the field's loader does."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator)
    full = count // batch_size * batch_size
    return list(order[:full].split(batch_size)) if full else [order]


# --- a run ----------------------------------------------------------------------------------------
class Run:
    """One method in training: what its steps need, its callbacks, its log.

    Args:
        views: images with labels in the order of `method.trained_classnames`.
        state: folder for the resumable state, written after every epoch; an existing one of the same
            run is continued, one of another run is refused.
        validate: called after every epoch; its accuracy goes into the log.
        on_step, on_epoch: short for a callback, see `callbacks.Hooks`: (epoch, step in epoch, steps per epoch, loss
            parts), and (epoch, figures) once an epoch is safe on disk.
        callbacks: callbacks, alone or as (name, callback), told after the run's own (`anprompt.training.callbacks`).
        team: the processes that share the run, each with the same arguments; None for this one alone.

    Raises:
        UserError: nothing to train, no images, labels outside the class list, foreign state, no callback.
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
        callbacks: Callbacks = (),
        team: Team | None = None,
    ) -> None:
        check_labels(views, len(method.trained_classnames))
        if team and config.adversary != "none":
            raise UserError("Adversarial training runs in one process; leave out the adversary, or torchrun.")
        self.method, self.views, self.config, self.state = method, views, config, state
        self.validate, self.on_step, self.on_epoch, self.given = validate, on_step, on_epoch, named(callbacks, OWN)
        self.device = method.backbone.device
        self.optimizer = make_optimizer(method, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.memory = LessMemory()
        self.team, self.share = team, 1.0
        self.across: dict[str, Gather] = {}  # what a loss on a slice of a batch gathers with
        self.failure: NonFiniteLoss | None = None
        self.callbacks: list[tuple[str, Callback]] = []
        self.log = TrainLog()

    def _callbacks(self) -> list[tuple[str, Callback]]:
        """The run's own ones, and those it was given."""
        own: list[tuple[str, Callback]] = [("losses", MeanLosses()), ("nan_watch", NanWatch())]
        if self.validate:
            own.append(("validation", Validation(self.validate)))
        if self.state:
            own.append(("state", ResumableState(self.state)))
        if self.on_step or self.on_epoch:
            own.append(("hooks", Hooks(self.on_step, self.on_epoch)))
        return own + self.given

    def tell(self, event: str, *facts: Any) -> None:
        """Let every callback know of an event, in their order."""
        for _, callback in self.callbacks:
            getattr(callback, event)(self, *facts)

    def begin(self, bank: FeatureCache | None = None) -> None:
        """Constants of the class list, one state in all processes, and that of an earlier start."""
        method, config = self.method, self.config
        self.callbacks = self._callbacks()
        if line := config.warmup_line():
            log.info("%s", line)
        with autocast(self.device, config.precision):
            self.classes = method.prepare(method.trained_classnames)
        self.key = run_key(method, config, self.views)
        if self.team:
            self.share, self.across = split_batches(self.team, method, min(config.batch_size, len(self.views)))
            self.team.agree(self.key, DIFFERENT)
        self.tell("on_train_begin")
        if self.team:
            self.team.copy_first(method)
        self.log.resumed_from = len(self.log.epochs)
        self.looks = FrozenFeatures(
            method, self.views, config.precision, config.trunk_precision, bank, config.image_noise_target
        )
        self.labels = self.views.labels.to(self.device)
        self.adversary = Adversary(method, self.views, config) if config.adversary != "none" else None
        method.train()


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


def check_labels(views: TrainViews, classes: int) -> None:
    """`UserError` unless there are pictures and every label fits the class list."""
    if not len(views):
        raise UserError("No pictures to train on.")
    if int(views.labels.min()) < 0 or int(views.labels.max()) >= classes:
        raise UserError(f"Labels run to {int(views.labels.max())}, but the method has {classes} classes.")


# --- one run, several runs, the first steps of one --------------------------------------------------
def fit(
    method: Method,
    views: TrainViews,
    config: TrainConfig,
    *,
    state: Path | None = None,
    validate: Callable[[], float] | None = None,
    on_step: StepHook | None = None,
    on_epoch: EpochHook | None = None,
    callbacks: Callbacks = (),
    bank: FeatureCache | None = None,
    team: Team | None = None,
) -> TrainLog:
    """Train a method in place. The arguments are those of `Run`.

    Args:
        bank: keeps what the frozen encoder makes of the views; None computes it at every step.

    Returns:
        What happened, epoch by epoch.

    Raises:
        UserError: nothing to train, no pictures, labels outside the class list, foreign state, no callback.
        NonFiniteLoss: NaN or Inf, named with its step; the method is back at its last finished epoch.
    """
    if method.from_features:
        if config.adversary != "none":
            raise UserError(
                f"Method {method.name!r} is fitted in one go on frozen features, so there is no step to attack; leave out "
                "the adversary."
            )
        check_labels(views, len(method.trained_classnames))
        if config.visual_weight:
            raise UserError(
                f"visual_weight is for methods that are trained by steps; {method.name} is a visual head itself."
            )
        told = ([Hooks(on_step, on_epoch)] if on_step or on_epoch else []) + list(callbacks)
        return fit_features(method, views, config, validate=validate, callbacks=told, bank=bank, team=team)
    run = Run(
        method, views, config, state=state, validate=validate, on_step=on_step, on_epoch=on_epoch,
        callbacks=callbacks, team=team,
    )  # fmt: skip
    return _train([run], bank)[0]


def fit_many(runs: Sequence[Run], bank: FeatureCache | None = None) -> list[TrainLog]:
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
    return _train(runs, MemoryFeatureCache() if bank is None else bank)


def _train(runs: Sequence[Run], bank: FeatureCache | None) -> list[TrainLog]:
    for run in runs:
        run.begin(bank)
    for epoch in range(max((run.config.epochs for run in runs), default=0)):
        waiting = [run for run in runs if len(run.log.epochs) <= epoch < run.config.epochs and not run.failure]
        turns = [(run, train_epoch(run, epoch)) for run in waiting]
        while turns:  # one step each
            turns = [(run, steps) for run, steps in turns if _advance(run, steps)]
    for run in runs:
        run.method.eval()
        if run.config.visual_weight and not run.failure:
            fit_visual_head(run.method, run.views, run.config)
            if run.validate and run.log.epochs:
                run.log.epochs[-1]["val_accuracy"] = run.validate()  # of the method as it is now
        run.tell("on_train_end")
    for run in runs:
        if run.failure:
            raise run.failure
    return [run.log for run in runs]


def _advance(run: Run, steps: Iterator[Step]) -> bool:
    """One step; False when the epoch is over or the run broke."""
    try:
        return next(steps, None) is not None
    except NonFiniteLoss as error:
        run.failure = error
        return False


def trial_steps(method: Method, views: TrainViews, config: TrainConfig) -> Iterator[Step]:
    """The steps of a run for those who measure them: no epoch ends, so nothing is validated or written.

    The run begins at the call. A step is done when it is asked for, and is over on the device when it is given.
    """
    run = Run(method, views, config)
    run.begin()

    def steps() -> Iterator[Step]:
        for epoch in range(config.epochs):
            count = len(epoch_order(len(views), config.batch_size, config.seed, epoch))
            for step in itertools.islice(train_epoch(run, epoch), count):
                if run.device.type == "cuda":
                    torch.cuda.synchronize(run.device)
                yield step

    return steps()
