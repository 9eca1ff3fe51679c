"""Two at once: the second is told who works there since when; a process that died blocks nobody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from anprompt.adapters.adapter import load_adapter, save_adapter, write_record
from anprompt.commands._shared.terminal import safe
from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.experiments import silent
from anprompt.experiments.runners import Engine, execute
from anprompt.experiments.sweep import plan
from anprompt.training.feature_cache import DiskFeatureCache
from anprompt.utils.locks import LOCK, OWNER, SWEEPS, Busy, hold, hold_runs, owner_of

Out = pytest.CaptureFixture[str]
WHO = r"process {} on \S+ since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 \(anprompt .*\)"
HOLD = """
import sys, time
sys.argv = ["anprompt", "fit", "--data", "mine"]
from anprompt.utils.locks import hold, hold_runs
with (hold(sys.argv0) if not sys.work else hold_runs(sys.argv0, sys.work)):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def another(folder: Path, *work: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder, or runs in it, until it is killed."""
    code = f"import sys; sys.argv0, sys.work = {str(folder)!r}, {list(work)!r}\n{HOLD}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
            process.wait()


def line(capsys: Out) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# --- the lock -------------------------------------------------------------------------------------
def test_the_second_is_told_who_holds_it_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    with another(tmp_path / "out") as process:
        with (
            pytest.raises(Busy, match=WHO.format(process.pid) + "; do this") as caught,
            hold(tmp_path / "out", "do this"),
        ):
            pass
        assert str(caught.value).isprintable()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert sorted(os.listdir(tmp_path / "out")) == [LOCK, OWNER]
        with hold(tmp_path / "out"):
            assert owner_of(tmp_path / "out")["pid"] == os.getpid()
    assert not os.listdir(tmp_path / "out")


def test_a_stopped_holder_still_holds(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(Busy), hold(tmp_path):
            pass


def test_waiting_ends_when_the_other_has_finished(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        threading.Timer(0.3, process.kill).start()
        started = time.monotonic()
        with hold(tmp_path, wait=30):
            assert time.monotonic() - started < 20


def test_a_folder_is_made_and_goes_if_nothing_was_put_into_it(tmp_path: Path) -> None:
    with hold(tmp_path / "new" / "deep"):
        pass
    assert not (tmp_path / "new" / "deep").exists()
    with hold(tmp_path / "kept"):
        (tmp_path / "kept" / "f").write_text("x")
    assert os.listdir(tmp_path / "kept") == ["f"]


def test_the_same_thread_may_hold_again_and_another_may_not(tmp_path: Path) -> None:
    found: list[object] = []

    def elsewhere() -> None:
        try:
            with hold(tmp_path):
                found.append("held")
        except Busy as busy:
            found.append(busy.owner["pid"])

    (tmp_path / "link").symlink_to(tmp_path)
    with hold(tmp_path), hold(tmp_path / "link"), hold(tmp_path / "sub" / ".."):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert found == [os.getpid()]
    elsewhere()
    assert found[1] == "held"


def test_many_at_once_are_never_two_at_a_time(tmp_path: Path) -> None:
    """The lock's file is removed by each: whoever waits on a removed one must look again."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(15):
            with hold(tmp_path / "x", wait=60):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and not list(tmp_path.glob("x/*"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "\\u001b[2J", "host": []}', "x" * 999])
def test_an_owner_that_says_nonsense_is_named_as_well_as_can_be(content: str, tmp_path: Path) -> None:
    (tmp_path / OWNER).write_text(content)
    with FileLock(tmp_path / LOCK), pytest.raises(Busy, match="is in use by") as caught, hold(tmp_path):
        pass
    assert safe(str(caught.value)).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_no_lock(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    make = {"pipe": os.mkfifo, "link": lambda p: p.symlink_to(tmp_path / "mine"), "folder": os.mkdir}
    make[kind](tmp_path / LOCK)
    with pytest.raises(UserError, match="only regular files"), hold(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


# --- commands -------------------------------------------------------------------------------------
def test_fit_twice(tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "out"
    words = ["fit", "--data", "embedded:food", "--shots", "1", "--epochs", "1", "--quiet", "--out", str(out)]
    with another(out) as process:
        for more in ([], ["--overwrite"], ["--seed", "2"]):
            assert main([*words, *more]) == 2
            assert re.search(WHO.format(process.pid) + "; wait .* another --out", line(capsys))
        assert sorted(os.listdir(out)) == [LOCK, OWNER]
        assert main([*words, "--dry-run"]) == 0  # writes nothing
    assert main(words) == 0
    assert sorted(os.listdir(out)) == ["README.md", "adapter.safetensors", "config.json"]
    with another(out):
        assert main(words) == 0  # the adapter of this very run is there: nothing to write


def test_fit_looks_again_under_the_lock(tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run was finished elsewhere after the first look: nothing is trained again."""
    from anprompt.commands import fit

    words = ["fit", "--data", "embedded:food", "--shots", "1", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    capsys.readouterr()
    real, looks = fit._finished, []

    def late(*args: Any, **kwargs: Any) -> bool:
        looks.append(1)
        return len(looks) > 1 and real(*args, **kwargs)

    monkeypatch.setattr(fit, "_finished", late)
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().out and len(looks) == 2


def test_saving_and_calibrating_wait_a_while(
    adapter_folder: Path, tiny_backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = load_adapter(adapter_folder, backbone=tiny_backbone)
    folder = save_adapter(tmp_path / "a", method)
    monkeypatch.setattr("anprompt.adapters.adapter.LOCK_WAIT_S", 0.1)
    with another(folder):
        for write in (lambda: save_adapter(folder, method), lambda: write_record(folder, {})):
            with pytest.raises(Busy):
                write()
    monkeypatch.setattr("anprompt.adapters.adapter.LOCK_WAIT_S", 30)
    with another(folder) as process:
        threading.Timer(0.2, process.kill).start()
        write_record(folder, {"note": "x"})


def test_demo_twice(tmp_path: Path, capsys: Out) -> None:
    with another(tmp_path) as process:
        assert main(["demo", "--quick", "--quiet", "--out", str(tmp_path)]) == 2
    assert re.search(WHO.format(process.pid), line(capsys))


# --- sweeps ---------------------------------------------------------------------------------------
def test_sweeps_of_other_runs_share_a_folder_and_of_the_same_do_not(tmp_path: Path) -> None:
    with another(tmp_path, "a.json", "b.json") as process:
        with hold_runs(tmp_path, ["c.json"]), hold_runs(tmp_path, ["d.json"]):
            assert len(list((tmp_path / SWEEPS).glob("[!.]*"))) == 3
        with (
            pytest.raises(Busy, match="1 of the 2 runs .*" + WHO.format(process.pid)),
            hold_runs(tmp_path, ["c.json", "b.json"]),
        ):
            pass
        with hold_runs(tmp_path, []):  # everything is done already
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with hold_runs(tmp_path, ["a.json"]):
            assert len(list((tmp_path / SWEEPS).glob("[!.]*"))) == 1  # what was left of it is cleared away
    assert not (tmp_path / SWEEPS).exists()


def test_bench_twice(tmp_path: Path, capsys: Out) -> None:
    specs = plan(["embedded:food"], ["zeroshot"], [1], shots=1)
    from anprompt.experiments.records import record_name

    name = record_name(specs[0].identity())
    with another(tmp_path, name) as process, pytest.raises(Busy, match=WHO.format(process.pid)):
        execute(Engine(jobs=1), specs, tmp_path, silent)
    with another(tmp_path, "other.json"):
        assert len(execute(Engine(jobs=1), specs, tmp_path, silent)) == 1
    with another(tmp_path, name):  # it is done: nothing that two could do
        assert len(execute(Engine(jobs=1), specs, tmp_path, silent)) == 1


# --- banks ----------------------------------------------------------------------------------------
def test_a_bank_that_is_never_free_is_told_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anprompt.training.feature_cache._PATIENCE_S", 0.1)
    bank = DiskFeatureCache(tmp_path)
    with FileLock(tmp_path / "lock"), pytest.raises(UserError, match="has held"), bank.lock():
        pass
    with bank.lock():
        pass
