"""The look-out for NaN and Inf in a training run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.methods.base import Method
from anprompt.training.callbacks import Callback, Step

if TYPE_CHECKING:
    from anprompt.training.loop import Run

log = logging.getLogger("anprompt")


class NonFiniteLoss(UserError):
    """A loss part or a tensor became NaN or Inf. The method is back at its last finished epoch, whose state
    is on disk where a state folder was given."""


class NanWatch(Callback):
    """Where in an epoch each loss part and each gradient first was NaN or Inf; kept on the device until a check.

    A check that finds something puts the method back to its last finished epoch and raises `NonFiniteLoss`. With
    fp16, steps whose gradients overflow are left out by the scaler; they are counted, said and logged instead.
    """

    def __init__(self) -> None:
        self.good: dict[str, Tensor] = {}  # the method's tensors after the last finished epoch

    def on_epoch_begin(self, run: Run, epoch: int) -> None:
        if not self.good:
            self.good = _copy(run.method)
        self.names: list[str] = []
        self.bad_part = self.bad_gradient = torch.zeros(0)
        self.tensors: list[str] = []
        self.skipped: Tensor | int = 0
        self.scale: Tensor | float = run.scaler.get_scale()

    def on_step_end(self, run: Run, step: Step) -> None:
        if run.scaler.is_enabled():
            # As a tensor: asking for the number would wait for the device.
            scale = run.scaler._get_scale_async().clone()  # type: ignore[union-attr]
            self.skipped, self.scale = self.skipped + (scale < self.scale), scale
        else:
            self._add_gradients(run.method, step.number)
        values = torch.stack([part.float() for part in step.parts.values()])
        if not self.names:
            self.names, self.bad_part = list(step.parts), torch.full_like(values, torch.inf)
        self.bad_part = _first(self.bad_part, values, step.number)

    def _add_gradients(self, method: Method, number: int) -> None:
        """Gradients of step `number`; not with fp16, whose overflowing steps are left out anyway."""
        gradients = [(name, p.grad) for name, p in method.named_parameters() if p.grad is not None]
        names = [name for name, _ in gradients]
        sums = torch.stack([gradient.sum() for _, gradient in gradients])  # NaN or Inf if one entry is
        if names != self.tensors:
            self.tensors, self.bad_gradient = names, torch.full_like(sums, torch.inf)
        self.bad_gradient = _first(self.bad_gradient, sums, number)

    def on_check(self, run: Run, step: Step) -> None:
        if broken := self._broken(run, step):
            run.method.load_state_dict(self.good)
            raise NonFiniteLoss(broken)

    def _broken(self, run: Run, step: Step) -> str | None:
        """What broke first and its step: a loss part, a gradient, or a tensor."""
        parts, gradients = self.bad_part[1:].tolist(), self.bad_gradient.tolist()  # [0] is the parts' sum
        first = min([*parts, *gradients], default=torch.inf)
        if first in parts and first < torch.inf:
            return _words(f"loss part {self.names[1 + parts.index(first)]!r}", "at", step.epoch, int(first))
        if first < torch.inf:
            name = f"the gradient of {self.tensors[gradients.index(first)]!r}"
            return _words(name, "at", step.epoch, int(first))
        if tensor := broken_tensor(run.method, run.optimizer):
            return _words(f"tensor {tensor!r}", "by", step.epoch, step.number)
        if run.scaler.is_enabled() and run.scaler.get_scale() < 1:  # they overflow unscaled: nothing is learned
            name = broken_gradient(run.method) or "unknown"
            return _words(f"the gradient of {name!r}", "by", step.epoch, step.number)
        return None

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        if skipped := int(self.skipped):
            log.warning("fp16 left out %d steps of epoch %d: gradients overflowed", skipped, epoch + 1)
            figures["skipped_steps"] = float(skipped)
        self.good = _copy(run.method)


def broken_tensor(method: Method, optimizer: torch.optim.Optimizer) -> str | None:
    """Name of the first parameter, or optimiser tensor of a parameter, that holds NaN or Inf."""
    tensors: list[tuple[str, Tensor]] = []
    for name, parameter in method.named_parameters():
        tensors.append((name, parameter))
        state = optimizer.state.get(parameter, {})
        tensors += [(f"{name} ({key})", value) for key, value in state.items() if _is_like(value, parameter)]
    return _first_broken(tensors)


def broken_gradient(method: Method) -> str | None:
    """Name of the first parameter whose gradient holds NaN or Inf."""
    return _first_broken([(name, p.grad) for name, p in method.named_parameters() if p.grad is not None])


def _copy(method: Method) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in method.state_dict().items()}


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.device == parameter.device


def _first_broken(tensors: list[tuple[str, Tensor]]) -> str | None:
    if not tensors:
        return None
    sound = torch.stack([torch.isfinite(value).all() for _, value in tensors]).tolist()  # one wait for all
    return next((name for (name, _), fine in zip(tensors, sound) if not fine), None)


def _first(known: Tensor, values: Tensor, number: int) -> Tensor:
    """The step at which each value first was NaN or Inf; Inf as long as it never was."""
    return torch.where(torch.isfinite(values), known, known.clamp(max=float(number)))


def _words(what: str, when: str, epoch: int, number: int) -> str:
    return (
        f"Training broke: {what} is NaN or Inf {when} epoch {epoch + 1}, step {number + 1}. Lower the learning rate "
        f"(--set lr=...), or use --autocast fp32; the last finished epoch ({epoch}) is kept."
    )
