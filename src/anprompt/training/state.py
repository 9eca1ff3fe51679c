"""The resumable state of a training run, and the look-out for NaN and Inf."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.methods.base import Method, MethodConfig
from anprompt.training.feature_cache import checksum
from anprompt.utils.files import atomic_write, check_encodable, check_folder, read_tensors, write_tensors

log = logging.getLogger("anprompt")

FILE = "state.safetensors"
SPACE_BESIDES = 2**20  # bytes: config, card, notes


@dataclass
class TrainLog:
    """What happened: mean loss parts per epoch, seconds, steps, validation accuracy where asked for."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    resumed_from: int = 0


class NonFiniteLoss(UserError):
    """A loss part or a tensor became NaN or Inf. The method is back at its last finished epoch, whose state
    is on disk where a state folder was given."""


# --- on disk --------------------------------------------------------------------------------------
def run_key(method: Method, config: MethodConfig, views: Any) -> str:
    """Fingerprint of everything that decides a run; a state of another run must not be continued."""
    labels = hashlib.sha256(views.labels.to("cpu", torch.int64).numpy().tobytes()).hexdigest()
    fields = [
        method.name, method.config.to_dict(), config.to_dict(), list(method.trained_classnames), method.template,
        method.seed, method.backbone.weight_hash, labels, views.fingerprint,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def check_space(folder: Path, method: Method) -> None:
    """Whether what a run writes finds room, asked before its first step.

    A state holds the tensors and two moments of each, and lies beside the one before while it is written; the
    adapter comes to it at the end.

    Raises:
        UserError: less space is free; or the folder can't be written.
    """
    size = sum(tensor.numel() * max(tensor.element_size(), 4) for tensor in method.state_dict().values())
    check_encodable(folder)
    check_folder(folder, 8 * size + SPACE_BESIDES)


def save_state(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, run: str, train_log: TrainLog,
    scaler: torch.amp.GradScaler | None = None,
) -> None:  # fmt: skip
    """Tensors and log in one file, replaced atomically: a kill at any moment leaves the last epoch whole."""
    tensors = {f"method.{k}": v for k, v in method.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors.update(
            {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items() if v is not None}
        )
    content = {"run": run, "log": dataclasses.asdict(train_log)}
    if scaler is not None and scaler.is_enabled():
        content["scaler"] = scaler.state_dict()
    text = json.dumps(content)
    meta = {"anprompt": text, "checksum": _checksum(tensors, text)}
    atomic_write(folder / FILE, lambda path: write_tensors(path, tensors, meta))


def load_state(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, run: str,
    scaler: torch.amp.GradScaler | None = None,
) -> TrainLog:  # fmt: skip
    """Continue from `folder` if it holds a state of this very run, whole to the last bit.

    Raises:
        UserError: the state belongs to another run, or the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return TrainLog()
    tensors, meta = read_tensors(path)
    text = meta.get("anprompt", "{}")
    if meta.get("checksum") != _checksum(tensors, text):
        raise UserError(f"{path} is damaged (its checksum differs); delete it to start this run afresh.")
    content = json.loads(text)
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
    if scaler is not None and "scaler" in content:
        scaler.load_state_dict(content["scaler"])
    log.info("resuming after %d finished epochs from %s", len(content["log"]["epochs"]), path)
    return TrainLog(**content["log"])


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Over the tensors and the log."""
    flat = {name: value.detach().to("cpu") for name, value in tensors.items()}
    return f"{checksum(flat)}{zlib.crc32(text.encode()):08x}"


# --- NaN and Inf ----------------------------------------------------------------------------------
class Watch:
    """Sums of the loss parts of one epoch, and where each first broke; kept on the device.

    Nothing here waits for the device but `check` and `means`.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = self.bad_part = self.bad_gradient = torch.zeros(0)
        self.tensors: list[str] = []
        self.skipped: Tensor | int = 0

    def add(self, parts: Mapping[str, Tensor], number: int) -> None:
        """Loss parts of step `number`."""
        values = torch.stack([part.detach().float() for part in parts.values()])
        if not self.names:
            self.names, self.sums = list(parts), torch.zeros_like(values)
            self.bad_part = torch.full_like(values, torch.inf)
        self.sums = self.sums + values
        self.bad_part = _first(self.bad_part, values, number)

    def add_gradients(self, method: Method, number: int) -> None:
        """Gradients of step `number`; not with fp16, whose overflowing steps are left out anyway."""
        named = [(name, p.grad) for name, p in method.named_parameters() if p.grad is not None]
        names = [name for name, _ in named]
        sums = torch.stack([gradient.sum() for _, gradient in named])  # NaN or Inf if one entry is
        if names != self.tensors:
            self.tensors, self.bad_gradient = names, torch.full_like(sums, torch.inf)
        self.bad_gradient = _first(self.bad_gradient, sums, number)

    def check(
        self, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, epoch: int, number: int
    ) -> None:  # fmt: skip
        """`NonFiniteLoss` naming what broke first and its step: a loss part, a gradient, or a tensor."""
        parts, gradients = self.bad_part[1:].tolist(), self.bad_gradient.tolist()  # [0] is their sum
        first = min([*parts, *gradients], default=torch.inf)
        if first in parts and first < torch.inf:
            name = f"loss part {self.names[1 + parts.index(first)]!r}"
            raise NonFiniteLoss(_broken(name, "at", epoch, int(first)))
        if first < torch.inf:
            name = f"the gradient of {self.tensors[gradients.index(first)]!r}"
            raise NonFiniteLoss(_broken(name, "at", epoch, int(first)))
        tensor = broken_tensor(method, optimizer)
        if tensor:
            raise NonFiniteLoss(_broken(f"tensor {tensor!r}", "by", epoch, number))
        if scaler.is_enabled() and scaler.get_scale() < 1:  # they overflow unscaled: nothing is learned
            name = broken_gradient(method) or "unknown"
            raise NonFiniteLoss(_broken(f"the gradient of {name!r}", "by", epoch, number))

    def means(self, steps: int) -> dict[str, float]:
        """Mean loss parts, and how many steps fp16 left out where it left out any."""
        found = {name: value / steps for name, value in zip(self.names, self.sums.tolist())}
        return {**found, "skipped_steps": float(self.skipped)} if int(self.skipped) else found


def broken_tensor(method: Method, optimizer: torch.optim.Optimizer) -> str | None:
    """Name of the first parameter, or optimiser tensor of a parameter, that holds NaN or Inf."""
    named: list[tuple[str, Tensor]] = []
    for name, parameter in method.named_parameters():
        named.append((name, parameter))
        state = optimizer.state.get(parameter, {})
        named += [(f"{name} ({key})", value) for key, value in state.items() if _is_like(value, parameter)]
    return _first_broken(named)


def broken_gradient(method: Method) -> str | None:
    """Name of the first parameter whose gradient holds NaN or Inf."""
    return _first_broken([(name, p.grad) for name, p in method.named_parameters() if p.grad is not None])


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.device == parameter.device


def _first_broken(named: list[tuple[str, Tensor]]) -> str | None:
    if not named:
        return None
    sound = torch.stack([torch.isfinite(value).all() for _, value in named]).tolist()  # one wait for all
    return next((name for (name, _), fine in zip(named, sound) if not fine), None)


def _first(known: Tensor, values: Tensor, number: int) -> Tensor:
    """The step at which each value first was NaN or Inf; Inf as long as it never was."""
    return torch.where(torch.isfinite(values), known, known.clamp(max=float(number)))


def _broken(what: str, when: str, epoch: int, number: int) -> str:
    return (
        f"Training broke: {what} is NaN or Inf {when} epoch {epoch + 1}, step {number + 1}. Lower the learning rate "
        f"(--set lr=...), or use --autocast fp32; the last finished epoch ({epoch}) is kept."
    )
