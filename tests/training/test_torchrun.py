"""The command line as several processes of torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anprompt.utils.files import read_tensors
from tests.training.test_distributed import ROOT, free_port


def torchrun(
    arguments: list[str], program: tuple[str, ...] = ("-m", "anprompt"), **more: str
) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **more}
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    return subprocess.run(
        [sys.executable, *words, *program, *arguments], env=env, capture_output=True, text=True, timeout=120
    )


def test_fit_under_torchrun_writes_the_adapter_once(tiny_folder: Path, photo_folder: Path, tmp_path: Path) -> None:
    """The adapter of two processes is that of one, and one of them speaks."""
    asked = [
        "fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--method", "maple", "--shots", "2",
        "--epochs", "2", "--device", "cpu", "--lr", "0.001",
    ]  # fmt: skip
    together = torchrun([*asked, "--out", str(tmp_path / "two")])
    assert together.returncode == 0, together.stderr
    from anprompt.commands.main import main as anprompt

    assert anprompt([*asked, "--out", str(tmp_path / "one"), "--quiet"]) == 0
    two, one = (read_tensors(tmp_path / name / "adapter.safetensors")[0] for name in ("two", "one"))
    assert max(float((two[key] - one[key]).abs().max()) for key in one) < 1e-5
    assert together.stdout.count("epoch 2/2") == 1 and "2 processes" in together.stdout
    assert together.stdout.count("test accuracy") == 1
    assert not (tmp_path / "two" / ".state").exists()


THREADS = """
import contextlib, os, sys, time
from pathlib import Path
from anprompt.prompting import process_group
from anprompt.commands.main import main

def threads():
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended since
            found += "gloo" in task.joinpath("comm").read_text()
    return found

def leave(leave=process_group.leave):
    before = threads()
    leave()
    end = time.monotonic() + 10  # a joined thread is listed for a moment more
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    Path(os.environ["FOUND"], os.environ["RANK"]).write_text(f"{before} {threads()}")

process_group.leave = leave
sys.exit(main())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted where Linux lists them")
def test_no_thread_of_the_group_outlives_the_command(tiny_folder: Path, photo_folder: Path, tmp_path: Path) -> None:
    """One that did could abort the process while Python ends, after the work was done."""
    (script := tmp_path / "threads.py").write_text(THREADS)
    asked = [
        "fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--method", "coop", "--shots", "1",
        "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "a"),
    ]  # fmt: skip
    done = torchrun(asked, program=(str(script),), FOUND=str(tmp_path))
    assert done.returncode == 0, done.stderr
    counts = [tuple(map(int, (tmp_path / rank).read_text().split())) for rank in "01"]
    assert all(before > 0 and after == 0 for before, after in counts), counts


def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    done = torchrun(["fit", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "a"), "--device", "cpu"])
    assert done.returncode != 0
    assert sum(line.startswith("anprompt: ") for line in done.stderr.splitlines()) == 1, done.stderr


def test_commands_for_one_process_refuse_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from anprompt.commands.main import main as anprompt

    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert anprompt(["bench"]) == 2
    assert "'anprompt bench' works in one process" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert anprompt(["bench"]) == 2 and capsys.readouterr().err == ""
