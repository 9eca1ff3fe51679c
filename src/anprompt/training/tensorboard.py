"""Training curves for TensorBoard, with the extra `anprompt[tb]`: a callback of `training.loop.fit`."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.errors import UserError
from anprompt.training.callbacks import Callback, Step

if TYPE_CHECKING:
    from anprompt.training.loop import Run

EVERY = 10  # steps between two points: reading a value waits for the device


def require_tensorboard() -> None:
    """Raises `UserError` where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: pip install 'anprompt[tb]'.")


@contextlib.contextmanager
def board(folder: str | Path | None) -> Iterator[TensorBoard | None]:
    """A `TensorBoard` that is closed at the end; None for no folder.

    Raises:
        UserError: tensorboard is not installed, or the folder can't be written.
    """
    if folder is None:
        yield None
        return
    require_tensorboard()
    made = TensorBoard(folder)
    try:
        yield made
    finally:
        made.close()


class TensorBoard(Callback):
    """Loss parts as `step/NAME` every few steps, means and validation accuracy as `epoch/NAME`.

    The writer is made at the first step, when it is known where an interrupted run goes on: points of the
    epoch that was cut off are then replaced.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def on_step_end(self, run: Run, step: Step) -> None:
        self.step(step.epoch, step.number, step.count, step.parts)

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        self.epoch(epoch, figures)

    def step(self, epoch: int, number: int, steps: int, parts: Mapping[str, Any]) -> None:
        """Points of a step; `number` counts from 0 in its epoch of `steps`."""
        if number % EVERY and number + 1 != steps:
            return
        at = epoch * steps + number
        writer = self._open(epoch * steps)
        for key, value in parts.items():
            writer.add_scalar(f"step/{key}", float(value), at)

    def epoch(self, epoch: int, means: Mapping[str, float]) -> None:
        """Points of an epoch, counted from 0; they are shown from 1."""
        writer = self._open(0)
        for key, value in means.items():
            writer.add_scalar(f"epoch/{key}", value, epoch + 1)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, first_step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._writer = SummaryWriter(str(self.folder), purge_step=first_step or None)
            except OSError as error:
                raise UserError(
                    f"--tensorboard {str(self.folder)!r} can't be written ({error.strerror or error})."
                ) from None
        return self._writer
