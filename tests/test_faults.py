"""What fails around a run (docs/faults.md): one line, whole files, and the same command goes on."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anprompt.backbones import Backbone
from anprompt.commands._shared.training_progress import TrainingProgress
from anprompt.commands.main import main
from anprompt.data.sources import open_dataset
from anprompt.errors import UserError
from anprompt.evaluation.evaluate import evaluate
from anprompt.evaluation.loaders import make_views
from anprompt.experiments.records import finished, read_records, record_path, save_record
from anprompt.methods import Classifier, build_method
from anprompt.prompting.memory import LEAST_SAVED, LessMemory, in_halves, is_out_of_memory
from anprompt.prompting.shared_text import saved_bytes
from anprompt.training.feature_cache import DiskFeatureCache
from anprompt.training.job import plan
from anprompt.training.job import run as tune
from anprompt.utils.files import atomic_write, read_tensors, write_json, write_tensors

Out = pytest.CaptureFixture[str]
FILES = ("adapter.safetensors", "config.json")  # the card has the folder's name in it
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the pictures that may be changed."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def words(photos: Path, backbone: Path, out: Path, *more: str) -> list[str]:
    return ["fit", "--data", str(photos), "--backbone", str(backbone), "--out", str(out), "--shots", "2",
            "--epochs", "3", "--set", "token_width=8", "--set", "draws=2", *more]  # fmt: skip


def after_epoch(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], Any]) -> None:
    """Do something when this epoch (from 1) is safe on disk."""
    real = TrainingProgress.on_epoch_end

    def on_epoch_end(self: Any, run: Any, index: int, figures: Any) -> None:
        real(self, run, index, figures)
        if index + 1 == number:
            action()

    monkeypatch.setattr(TrainingProgress, "on_epoch_end", on_epoch_end)


def one_line(capsys: Out) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("anprompt: ") and lines[0].isprintable(), lines
    return lines[0]


def same_files(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def only_whole_state(out: Path) -> None:
    """Nothing but the state of the last finished epoch, and it is whole."""
    assert sorted(os.listdir(out)) == [".state"]
    assert sorted(os.listdir(out / ".state")) == ["run.json", "state.safetensors"]
    assert read_tensors(out / ".state" / "state.safetensors")[0]


@pytest.fixture
def whole(photos: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    """What the run gives that nothing interrupts."""
    assert main(words(photos, tiny_folder, tmp_path / "whole", "--quiet")) == 0
    return tmp_path / "whole"


# --- disks ----------------------------------------------------------------------------------------
@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """The system refuses to make any file larger than this, in the middle of writing it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(*_: Any, **__: Any) -> Any:
    """What the system says of a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "write",
    [full, lambda path: path.write_text("x" * 100_000), lambda path: write_tensors(path, {"a": torch.zeros(100_000)})],
    ids=["full", "text", "tensors"],
)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    """The last two are really cut off in the middle, by the system's limit on the size of files."""
    (tmp_path / "f").write_text("old")
    with small_disk(50_000), pytest.raises(UserError, match=r"Can't write .*(No space left|File too large)") as caught:
        atomic_write(tmp_path / "f", write)
    assert str(caught.value).isprintable()
    assert (tmp_path / "f").read_text() == "old" and os.listdir(tmp_path) == ["f"]


def test_a_disk_that_fills_up_in_mid_run(
    photos: Path, tiny_folder: Path, whole: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch's state is cut off by the system while it is written; with space again, the run goes on."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        after_epoch(patched, 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1])))
        try:
            assert main(words(photos, tiny_folder, out, "--quiet")) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    line = one_line(capsys)
    assert "Can't write" in line and "state.safetensors" in line and "File too large" in line
    only_whole_state(out)
    assert main(words(photos, tiny_folder, out, "--quiet")) == 0
    assert same_files(out, whole)


def test_a_folder_that_becomes_read_only(
    photos: Path, tiny_folder: Path, whole: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def read_only(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        after_epoch(patched, 2, lambda: patched.setattr("tempfile.mkstemp", read_only))
        assert main(words(photos, tiny_folder, out, "--quiet")) == 2
    assert "Read-only file system" in one_line(capsys)
    only_whole_state(out)
    assert main(words(photos, tiny_folder, out, "--quiet")) == 0
    assert same_files(out, whole)


def test_a_folder_that_is_read_only_from_the_start(
    photos: Path, tiny_folder: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert main(words(photos, tiny_folder, tmp_path / "out")) == 2
    assert "can't be written; choose another folder" in one_line(capsys) and not (tmp_path / "out").exists()


def test_an_adapter_that_cannot_be_written_keeps_the_training(
    photos: Path, tiny_folder: Path, whole: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All epochs are done and the disk is full: nothing is trained again when there is space."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("anprompt.adapters.adapter.write_tensors", full)
        assert main(words(photos, tiny_folder, out, "--quiet")) == 2
    assert "No space left" in one_line(capsys)
    only_whole_state(out)
    steps: list[Any] = []
    monkeypatch.setattr(TrainingProgress, "on_step_end", lambda *a: steps.append(a))
    assert main(words(photos, tiny_folder, out, "--quiet")) == 0
    assert same_files(out, whole) and not steps


def test_results_that_cannot_be_printed_are_one_line(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        flush = write = full  # type: ignore[assignment]

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["methods", "--json"]) == 1
    assert "No space left" in one_line(capsys)


# --- data -----------------------------------------------------------------------------------------
def test_a_data_set_that_vanishes_in_mid_run(
    photos: Path, tiny_folder: Path, whole: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive is unplugged; plugged in again, the same command goes on to the same adapter."""
    out, away = tmp_path / "out", tmp_path / "away"
    with monkeypatch.context() as patched:
        after_epoch(patched, 1, lambda: photos.rename(away))
        assert main(words(photos, tiny_folder, out, "--quiet")) == 2
    line = one_line(capsys)
    assert str(photos) in line and "does not exist" in line
    only_whole_state(out)
    assert main(words(photos, tiny_folder, out, "--quiet")) == 2
    assert "There is no data set" in one_line(capsys)
    away.rename(photos)
    assert main(words(photos, tiny_folder, out, "--quiet")) == 0
    assert same_files(out, whole)


# --- damage ---------------------------------------------------------------------------------------
def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("at", [-5, -2000, 300])
def test_a_damaged_state_is_not_continued(
    at: int, photos: Path, tiny_folder: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit in tensors, or in the log: never a run that goes on from something else."""
    out = tmp_path / "out"

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        after_epoch(patched, 1, stop)
        assert main(words(photos, tiny_folder, out, "--quiet")) == 130
    one_line(capsys)
    flip(out / ".state" / "state.safetensors", at)
    assert main(words(photos, tiny_folder, out, "--quiet")) == 2
    line = one_line(capsys)
    assert "state.safetensors" in line and ("delete it" in line or "Can't read tensors" in line)


def test_a_damaged_record_is_run_again_and_never_counted(tmp_path: Path) -> None:
    spec = {"protocol": "base-to-new", "dataset": "embedded:food", "method": "anprompt", "seed": 1, "shots": 16}
    save_record(tmp_path, {"format": 1, "spec": spec, "metrics": {"base": {"accuracy": 81.25}}})
    assert finished(tmp_path, spec)
    path = record_path(tmp_path, spec)
    path.write_text(path.read_text().replace("81.25", "91.25"))
    assert finished(tmp_path, spec) is None
    with pytest.raises(UserError, match="checksum"):
        read_records(tmp_path)


# --- time -----------------------------------------------------------------------------------------
def test_records_do_not_depend_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"protocol": "base-to-new", "dataset": "embedded:food", "method": "anprompt", "seed": 1, "shots": 16}
    record = {"format": 1, "spec": spec, "finished": "2199-01-01T00:00:00+00:00", "metrics": {}}
    save_record(tmp_path, record)
    for moment in (0, 2**31, 2**33):
        os.utime(record_path(tmp_path, spec), (moment, moment))
        assert finished(tmp_path, spec) == record and read_records(tmp_path) == [record]


def test_a_clock_that_jumps_changes_nothing(
    tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours and years forward and back, at every look at it, with a bank that two runs share."""
    settings, train = {"token_width": 8, "draws": 2}, {"epochs": 2}
    job = plan(open_dataset(photo_folder), tiny_backbone, shots=2, settings=settings, train=train)
    plain = tune(job).method.state_dict()
    moments = iter([0.0, 4e9, 1.7e9, 1.0] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(moments))
    for turn in ("first", "second"):
        found = tune(job, state=tmp_path / turn, bank=DiskFeatureCache(tmp_path / "bank")).method.state_dict()
        assert all(torch.equal(plain[name], found[name]) for name in plain)


# --- signals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "code", "text"), [(signal.SIGTERM, 143, "ended from outside"), (signal.SIGINT, 130, "interrupted")]
)
def test_signals_end_a_run_in_one_line_and_keep_it(
    number: int, code: int, text: str, photos: Path, tiny_folder: Path, whole: Path, tmp_path: Path, capsys: Out,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    before = signal.getsignal(signal.SIGTERM)
    # a job in the background is started with this one ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patched:
        after_epoch(patched, 2, lambda: os.kill(os.getpid(), number))
        assert main(words(photos, tiny_folder, out, "--quiet")) == code
    line = one_line(capsys)
    assert text in line and "run the same command again to resume" in line
    only_whole_state(out)
    assert signal.getsignal(signal.SIGTERM) == before
    assert main(words(photos, tiny_folder, out, "--quiet")) == 0
    assert same_files(out, whole)


# --- memory ---------------------------------------------------------------------------------------
def test_real_shortages_are_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as too_large:
        np.empty(2**50, np.uint8)
    assert is_out_of_memory(too_large.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(
        ValueError("out of memory")
    )


def test_a_step_goes_on_in_smaller_parts_and_stays_there() -> None:
    limits: list[int] = []

    def step(word: str) -> str:
        limits.append(saved_bytes())
        if limits[-1] > 100 << 20:
            raise RuntimeError(ALLOCATOR)
        return word

    memory = LessMemory()
    assert memory(step, "a") == "a" and memory(step, "b") == "b"
    assert limits[0] > limits[1] > limits[2] == limits[3] <= 100 << 20
    limits.clear()

    def never() -> None:
        limits.append(saved_bytes())
        raise MemoryError

    with pytest.raises(UserError, match="--batch-size"):
        LessMemory()(never)
    assert limits[-1] == LEAST_SAVED and len(limits) < 6

    def other() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        LessMemory()(other)


def test_training_that_runs_short_once_ends_the_same(
    tiny_backbone: Backbone, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, train = {"token_width": 8, "draws": 2}, {"epochs": 2}
    job = plan(open_dataset(photo_folder), tiny_backbone, shots=2, settings=settings, train=train)
    plain = tune(job).method.state_dict()
    from anprompt.methods.anprompt import ANPrompt

    real, calls = ANPrompt.loss, []

    def loss(self: Any, *rest: Any) -> Any:
        calls.append(1)
        found = real(self, *rest)
        if len(calls) == 3:
            raise RuntimeError(ALLOCATOR)
        return found

    monkeypatch.setattr(ANPrompt, "loss", loss)
    found = tune(job).method.state_dict()
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_memory_that_is_never_enough_is_one_line(
    photos: Path, tiny_folder: Path, whole: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anprompt.methods.anprompt import ANPrompt

    def loss(self: Any, *rest: Any) -> Any:
        raise RuntimeError(ALLOCATOR)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        after_epoch(patched, 1, lambda: patched.setattr(ANPrompt, "loss", loss))
        assert main(words(photos, tiny_folder, out, "--quiet")) == 2
    line = one_line(capsys)
    assert "Out of memory" in line and "--batch-size" in line and "kept" in line
    only_whole_state(out)
    assert main(words(photos, tiny_folder, out, "--quiet")) == 0
    assert same_files(out, whole)


def test_memory_that_fails_outside_of_steps_is_one_line(
    adapter_folder: Path, photo_folder: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("anprompt.adapters.adapter.load_backbone", load)
    assert main(["eval", str(adapter_folder), "--data", str(photo_folder)]) == 2
    assert "Out of memory" in one_line(capsys)


def test_pictures_are_halved_until_they_fit(tiny_backbone: Backbone, photo_folder: Path) -> None:
    data = open_dataset(photo_folder)
    classifier = Classifier(build_method("zeroshot", tiny_backbone, data.classnames))
    views = make_views(tiny_backbone, data, data.test, probe="eval")
    plain = evaluate(classifier, views)
    real, sizes = classifier.logits, []

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise RuntimeError(ALLOCATOR)
        return real(pixels)

    classifier.logits = logits  # type: ignore[method-assign]
    found = evaluate(classifier, views)
    assert max(sizes) == len(views) and sum(size for size in sizes if size <= 3) == len(views)
    assert torch.equal(found.predictions, plain.predictions) and found.accuracy == plain.accuracy
    torch.testing.assert_close(found.confidences, plain.confidences)

    def never(indices: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    with pytest.raises(UserError, match=r"Out of memory \(CUDA out of memory"):
        in_halves(never, torch.arange(5))


# --- numbers --------------------------------------------------------------------------------------
def test_a_loss_that_breaks_is_named_and_the_last_epoch_is_kept(
    photos: Path, tiny_folder: Path, tmp_path: Path, capsys: Out
) -> None:
    """The first epoch warms up at a small rate; the second breaks."""
    out = tmp_path / "out"
    assert main(words(photos, tiny_folder, out, "--quiet", "--lr", "1e9")) == 2
    line = one_line(capsys)
    assert re.search(
        r"(loss part|gradient of|tensor) '\w+.*is NaN or Inf (at|by) epoch \d, step \d+\. Lower the learning", line
    )
    only_whole_state(out)
    tensors, _ = read_tensors(out / ".state" / "state.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


def test_nan_is_never_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not os.listdir(tmp_path)
