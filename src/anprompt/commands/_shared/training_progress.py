"""How far a training is, in the terminal: a callback of `training.loop.fit`. Imported late, as it needs torch."""

from __future__ import annotations

from typing import Any

from anprompt.commands._shared.terminal import percent, say
from anprompt.training.callbacks import Callback, Step
from anprompt.training.loop import Run

EVERY = 10  # steps between two looks at the loss: reading a value waits for the device
APART = ("lr", "val_accuracy", "skipped_steps")  # figures that are not loss parts


class TrainingProgress(Callback):
    """Loss parts in the progress bar at every few steps, and one line per epoch.

    Args:
        update: (steps done, steps in all, text) of the bar, see `terminal.progress`.
        lines: whether epochs get a line.
    """

    def __init__(self, update: Any, *, lines: bool) -> None:
        self.update, self.lines = update, lines

    def on_step_end(self, run: Run, step: Step) -> None:
        if step.number % EVERY == 0 or step.number + 1 == step.count:
            text = "  ".join(f"{key} {float(value):.3f}" for key, value in step.parts.items())
            done, steps = step.epoch * step.count + step.number + 1, run.config.epochs * step.count
            self.update(done, steps, text)

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        if self.lines:
            parts = "  ".join(f"{k} {v:.3f}" for k, v in figures.items() if k not in APART)
            val = f"  val {percent(figures['val_accuracy'])}" if "val_accuracy" in figures else ""
            say(f"epoch {epoch + 1}/{run.config.epochs}  {parts}{val}")
