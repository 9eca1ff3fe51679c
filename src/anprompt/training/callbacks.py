"""What happens around the steps of a training run: a list of named callbacks, told of its events in that order.

    fit(method, views, config, callbacks=[Mine(), ("curves", TensorBoard("runs/a"))])

Every run has these, in this order, before those it is given:

    losses       mean loss parts of an epoch                 here
    nan_watch    NaN and Inf, named with their step          `nan_watch`
    validation   accuracy after an epoch                     here
    state        what an interrupted run goes on from        `state`
    hooks        `on_step` and `on_epoch`, where given       here

TensorBoard's curves are in `tensorboard`, the terminal's progress is in `commands`, a sweep's in `experiments`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.training.loop import Run

OWN = ("losses", "nan_watch", "validation", "state", "hooks")  # names of every run's own callbacks

StepHook = Callable[[int, int, int, Mapping[str, Tensor]], None]
EpochHook = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Step:
    """A step that is done.

    Attributes:
        epoch: from 0.
        number, count: place in its epoch, from 0, and how many steps an epoch has.
        parts: the loss and its named parts over the whole batch, scalars on the device, outside the graph.
            Reading one waits for the device: do it now and then, not at every step.
    """

    epoch: int
    number: int
    count: int
    parts: Mapping[str, Tensor]


class Callback:
    """Base of all callbacks; override what you need. What a callback raises ends the training.

    `run` is the run that tells: its `method`, `config`, `optimizer`, `log`, `team` may be read. Among several
    processes each tells its own callbacks; one that writes or prints asks `run.team` whether it is the first.
    """

    def on_train_begin(self, run: Run) -> None:
        """Once, before the first step; `state` puts an interrupted run back where it was."""

    def on_epoch_begin(self, run: Run, epoch: int) -> None:
        """Before the first step of an epoch, counted from 0."""

    def on_step_end(self, run: Run, step: Step) -> None:
        """After the optimiser's step; gradients are still there. Must not wait for the device at every step."""

    def on_check(self, run: Run, step: Step) -> None:
        """After every 50th step and an epoch's last, when all heard `on_step_end`: the time to wait for the device."""

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        """After an epoch. `figures` is its entry in the log: "lr" first, then what callbacks add to it; those
        after `state` find it on disk, and add in vain."""

    def on_train_end(self, run: Run) -> None:
        """Once, when the run is finished, or has broken (`run.failure`); not after another exception."""


Callbacks = Sequence["Callback | tuple[str, Callback]"]


def named(callbacks: Callbacks, taken: Sequence[str] = ()) -> list[tuple[str, Callback]]:
    """Every callback with its name: the one given, else that of its class, numbered where it comes again.

    Args:
        taken: names that are in use.

    Raises:
        UserError: something else than a callback, or a name given twice.
    """
    found: list[tuple[str, Callback]] = []
    for entry in callbacks:
        name, callback = entry if isinstance(entry, tuple) and len(entry) == 2 else ("", entry)
        if not isinstance(callback, Callback) or not isinstance(name, str):
            what = f"the class {callback.__name__}; make one of it" if isinstance(callback, type) else repr(entry)
            raise UserError(f"A callback is a training.callbacks.Callback, alone or as (name, callback), not {what}.")
        used = {*taken, *(other for other, _ in found)}
        if name in used:
            raise UserError(f"Two callbacks have the name {name!r}; choose another one.")
        found.append((name or _free(type(callback).__name__, used), callback))
    return found


def _free(name: str, used: set[str]) -> str:
    number = 2
    fresh = name
    while fresh in used:
        fresh, number = f"{name}_{number}", number + 1
    return fresh


class Hooks(Callback):
    """Two plain functions as a callback: `on_step(epoch, number, count, parts)`, `on_epoch(epoch, figures)`."""

    def __init__(self, on_step: StepHook | None = None, on_epoch: EpochHook | None = None) -> None:
        self.on_step, self.on_epoch = on_step, on_epoch

    def on_step_end(self, run: Run, step: Step) -> None:
        if self.on_step:
            self.on_step(step.epoch, step.number, step.count, step.parts)

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        if self.on_epoch:
            self.on_epoch(epoch, figures)


class MeanLosses(Callback):
    """The mean of every loss part over an epoch; the sums stay on the device until its end."""

    def on_epoch_begin(self, run: Run, epoch: int) -> None:
        self.names: list[str] = []

    def on_step_end(self, run: Run, step: Step) -> None:
        values = torch.stack([part.float() for part in step.parts.values()])
        if not self.names:
            self.names, self.sums = list(step.parts), torch.zeros_like(values)
        self.sums = self.sums + values
        self.count = step.count

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        figures.update((name, value / self.count) for name, value in zip(self.names, self.sums.tolist()))


class Validation(Callback):
    """`val_accuracy` of every epoch.

    Args:
        measure: gives the accuracy, 0..1, of the method as it is; among several processes all call it.
    """

    def __init__(self, measure: Callable[[], float]) -> None:
        self.measure = measure

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        run.method.eval()
        figures["val_accuracy"] = self.measure()
        run.method.train()
