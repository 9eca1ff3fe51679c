"""The resumable state of a training run: what is in it, and the callback that reads and writes it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anprompt.errors import UserError
from anprompt.methods.base import Method, MethodConfig
from anprompt.prompting.process_group import Team
from anprompt.training.callbacks import Callback
from anprompt.training.feature_cache import checksum
from anprompt.utils.files import atomic_write, check_encodable, check_folder, read_tensors, write_tensors

if TYPE_CHECKING:
    from anprompt.training.loop import Run

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


def run_key(method: Method, config: MethodConfig, views: Any) -> str:
    """Fingerprint of everything that decides a run; a state of another run must not be continued."""
    labels = hashlib.sha256(views.labels.to("cpu", torch.int64).numpy().tobytes()).hexdigest()
    fields = [
        method.name, method.config.to_dict(), config.to_dict(), list(method.trained_classnames), method.template,
        method.seed, method.backbone.weight_hash, labels, views.fingerprint,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class ResumableState(Callback):
    """Continues the run that `folder` holds the state of, and writes the state after every epoch.

    Among several processes the first one reads and writes; all get what it read.

    Raises:
        UserError: at the run's start, if the state is of another run or damaged, or there is no room for one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, run: Run) -> None:
        read = functools.partial(load_state, method=run.method, optimizer=run.optimizer, run=run.key, scaler=run.scaler)
        if run.team is None:
            check_space(self.folder, run.method)
            run.log = read(self.folder)
        else:
            run.log = _read_by_first(run.team, self.folder, read)

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        if run.team is None or run.team.first:
            save_state(self.folder, run.method, run.optimizer, run.key, run.log, run.scaler)


def _read_by_first(team: Team, folder: Path, read: Callable[[Path], TrainLog]) -> TrainLog:
    """What the first process reads from its folder, in all of them; the others need not see that folder.

    Raises:
        UserError: of the first process's reading, in all of them.
    """
    log = team.from_first(lambda: dataclasses.asdict(read(folder)))
    path = folder / FILE
    data = team.bytes_of_first(path.read_bytes() if team.first and path.exists() else b"")
    if data and not team.first:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / FILE).write_bytes(data)
            read(Path(place))
    return TrainLog(**log)


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
        tensors.update({f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items() if v is not None})
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
