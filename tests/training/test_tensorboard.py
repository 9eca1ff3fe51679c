"""`fit --tensorboard`: what is written, without the package, and after a kill."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.training.tensorboard import EVERY, TensorBoard, board, require_tensorboard

FIT = ["--method", "coop", "--shots", "4", "--epochs", "2", "--set", "warmup_epochs=0", "--set", "n_context=2"]


class Writer:
    """What `SummaryWriter` was asked to write."""

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step, self.points, self.closed = folder, purge_step, [], False
        Writer.last = self

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.points.append((tag, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("anprompt.training.tensorboard.require_tensorboard", lambda: None)
    return Writer


def test_a_run_leaves_its_curves(writer: Any, photo_folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["fit", "--data", photo_folder, "--backbone", tiny_folder, "--out", tmp_path / "a", *FIT]
    assert main([*map(str, words), "--quiet", "--tensorboard", str(tmp_path / "tb")]) == 0
    made = writer.last
    assert made.closed and made.folder == str(tmp_path / "tb") and made.purge_step is None
    by_tag = {tag: [step for t, _, step in made.points if t == tag] for tag, _, _ in made.points}
    assert by_tag["epoch/loss"] == by_tag["epoch/val_accuracy"] == by_tag["epoch/lr"] == [1, 2]
    steps = by_tag["step/loss"]
    assert steps == sorted(set(steps)) and steps[0] == 0 and by_tag["step/ce"] == steps


def test_points_are_spaced_and_an_epoch_cut_off_is_replaced(writer: Any, tmp_path: Path) -> None:
    with board(tmp_path) as curves:
        assert curves is not None
        for number in range(2 * EVERY + 3):  # resumed in the fourth epoch
            curves.step(3, number, 2 * EVERY + 3, {"loss": 1.0})
    made, first = writer.last, 3 * (2 * EVERY + 3)
    assert made.purge_step == first
    assert [step - first for _, _, step in made.points] == [0, EVERY, 2 * EVERY, 2 * EVERY + 2]
    with board(None) as nothing:
        assert nothing is None


def test_it_is_closed_after_a_failure(writer: Any, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), board(tmp_path) as curves:
        assert curves is not None
        curves.epoch(0, {"loss": 1.0})
        raise ZeroDivisionError
    assert writer.last.closed


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else real(name, *a))
    with pytest.raises(UserError, match=r"pip install 'anprompt\[tb\]'"):
        require_tensorboard()
    words = ["fit", "--data", "embedded:food", "--out", str(tmp_path / "a"), "--tensorboard", str(tmp_path / "tb")]
    assert main(words) == 2  # before data and model are opened, and before anything is trained
    assert "anprompt[tb]" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_the_real_writer(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    curves = TensorBoard(tmp_path / "tb")
    curves.step(0, 0, 1, {"loss": 0.5})
    curves.epoch(0, {"loss": 0.5})
    curves.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"step/loss", "epoch/loss"}
    assert events.Scalars("epoch/loss")[0].value == 0.5
