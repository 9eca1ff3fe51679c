"""What a run will take: the arithmetic under a fake clock, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anprompt.training.forecast as module
import anprompt.training.job as jobs
import anprompt.training.loop as loop
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.data.sources import open_dataset
from anprompt.training.feature_cache import DiskFeatureCache
from anprompt.training.forecast import Forecast, duration, forecast, in_words, process_age
from anprompt.training.job import Job, plan, run

PLAIN = Forecast(
    start_s=2, first_s=1, step_s=0.1, cached_s=0.06, steps=101, cached=0, val_s=0.5, test_s=3, epochs=10, memory_mb=400
)  # fmt: skip


def test_time_is_the_sum_of_its_parts() -> None:
    assert PLAIN.train_s == pytest.approx(1 + 100 * 0.1)
    assert PLAIN.seconds == pytest.approx(2 + 11 + 10 * 0.5 + 3)
    banked = dataclasses.replace(PLAIN, cached=60)
    assert banked.train_s == pytest.approx(1 + 40 * 0.1 + 60 * 0.06)
    assert dataclasses.replace(PLAIN, cached=101).train_s == pytest.approx(1 + 100 * 0.06)
    assert dataclasses.replace(PLAIN, steps=1).train_s == 1


class FakeClock:
    """Time passes only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def slow(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: Any) -> None:
        """Calls of `owner.name` take `seconds` (a number, or a list for one call after the other)."""
        real = getattr(owner, name)
        costs = iter(seconds) if isinstance(seconds, list) else None

        def slowed(*args: Any, **options: Any) -> Any:
            self.now += next(costs, 0.25) if costs else seconds
            return real(*args, **options)

        monkeypatch.setattr(owner, name, slowed)


def job(backbone: Backbone, folder: Path, **train: Any) -> Job:
    values = {"epochs": 6, "batch_size": 4, **train}
    settings = {"token_width": 8, "draws": 2, "projection_rank": 2}
    return plan(open_dataset(folder), backbone, shots=2, settings=settings, train=values)


def test_measured_under_a_fake_clock(
    tiny_backbone: Backbone, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(module, "process_age", lambda: 5.0)
    clock.slow(monkeypatch, jobs, "create_method", 2.0)
    clock.slow(monkeypatch, loop, "training_step", [7.0, 3.0])  # the first, the second, and 0.25 each from then on
    clock.slow(monkeypatch, module, "Classifier", 0.125)
    clock.slow(monkeypatch, module, "evaluate", 0.5)
    asked = job(tiny_backbone, photo_folder)
    found = forecast(asked, clock=clock)
    assert found.start_s == pytest.approx(5 + 2)
    assert found.first_s == 7 and found.step_s == pytest.approx(0.25) and found.steps == 6 * 2
    assert found.cached == 0 and found.epochs == 6
    tested = bool(asked.dataset.test)
    assert found.val_s == pytest.approx(0.625) and found.test_s == pytest.approx(0.625 if tested else 0)
    assert found.seconds == pytest.approx(7 + 7 + 11 * 0.25 + 6 * 0.625 + found.test_s)
    assert 100 < found.memory_mb < 100_000


def test_many_test_pictures_are_measured_by_some(
    tiny_backbone: Backbone, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(module, "PICTURES", 3)
    clock.slow(monkeypatch, module, "evaluate", 0.5)
    clock.slow(monkeypatch, module, "make_views", 0.25)
    asked = job(tiny_backbone, photo_folder)
    pictures = len(asked.dataset.test)
    assert pictures > 3
    assert forecast(asked, clock=clock).test_s == pytest.approx(0.75 * pictures / 3)


def test_steps_that_find_their_views_in_the_bank(
    tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    clock.slow(monkeypatch, loop, "training_step", 1.0)
    real = type(tiny_backbone).embed_image

    def embed(self: Any, pixels: Any) -> Any:
        clock.now += 0.5
        return real(self, pixels)

    monkeypatch.setattr(type(tiny_backbone), "embed_image", embed)
    asked = job(tiny_backbone, photo_folder)
    found = forecast(asked, DiskFeatureCache(tmp_path), clock)
    assert found.cached == 0 and found.step_s == pytest.approx(1.5) and found.cached_s == pytest.approx(1.0)
    run(job(tiny_backbone, photo_folder, epochs=4), bank=DiskFeatureCache(tmp_path))
    assert forecast(asked, DiskFeatureCache(tmp_path), clock).cached == 4 * 2
    pool = job(tiny_backbone, photo_folder, views=2)  # an epoch's views come again within the run
    assert forecast(pool, DiskFeatureCache(tmp_path / "pool"), clock).cached == 4 * 2


def test_command(tiny_folder: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked = ["fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--shots", "2", "--epochs", "1",
             "--out", str(tmp_path / "out"), "--dry-run"]  # fmt: skip
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("time: about ") and lines[-1].startswith("memory: about ")
    assert main([*asked, "--json", "--bank", str(tmp_path / "bank"), "--bank-gb", "1"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["seconds"] > facts["train_s"] > 0 and facts["memory_mb"] > 100
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way")
    assert main([*asked, "--bank", str(tmp_path / "file")]) == 2
    assert "view bank" in capsys.readouterr().err


def test_words() -> None:
    lines = in_words(dataclasses.replace(PLAIN, cached=60, device_mb=10), job_config())
    assert lines == [
        "time: about 19 s (start 2.0 s, 101 steps of 100 ms (60 of them from the view bank, 60 ms) = 8.6 s, "
        "10 validations 5.0 s, test 3.0 s)",
        "memory: about 400 MB, and 10 MB on the accelerator",
    ]


def job_config() -> Any:
    from anprompt.training.loop import TrainConfig

    return TrainConfig(epochs=10)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (7000, "1 h 57 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_durations_are_true(seconds: float) -> None:
    values = {"h": 3600.0, "min": 60.0, "s": 1.0}
    words = duration(seconds).split()
    told = sum(float(number) * values[unit] for number, unit in zip(words[::2], words[1::2]))
    assert abs(told - seconds) <= (31 if "h" in words else 0.6 if seconds > 9.95 else 0.051)


def test_age_of_the_process() -> None:
    first = process_age()
    assert 0 < first <= process_age() < 1e6
