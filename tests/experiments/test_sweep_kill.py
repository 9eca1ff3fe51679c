"""kill -9 in the middle of a sweep, and start again: nothing twice, nothing lost, nothing half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anprompt.experiments import Event, RunSpec
from anprompt.experiments.records import FORMAT, finished, read_records
from anprompt.experiments.runners.local import run_parallel
from anprompt.experiments.sweep import run_all

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")

SWEEP = """
import json, sys
from anprompt.experiments import RunSpec
from anprompt.experiments.runners.local import run_parallel

def tell(event):
    print(event.kind, event.spec.seed, event.text, flush=True)

if __name__ == "__main__":
    specs, runs, jobs = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    pairs = ("settings", "train")
    made = [RunSpec(**{**s, "conditions": (), **{key: tuple(s[key].items()) for key in pairs}}) for s in specs]
    run_parallel(made, runs, jobs=jobs, observe=tell)
"""


@pytest.fixture
def specs(photo_folder: Path, tiny_folder: Path) -> list[RunSpec]:
    """Three short runs; the training is long enough to be killed within."""
    settings = (("draws", 2), ("projection_rank", 4), ("token_width", 16))
    train = (("batch_size", 2), ("epochs", 12))
    return [
        RunSpec(str(photo_folder), shots=2, seed=seed, backbone=str(tiny_folder), settings=settings, train=train)
        for seed in (1, 2, 3)
    ]


def start(specs: list[RunSpec], runs: Path, jobs: int, folder: Path) -> subprocess.Popen[str]:
    """The sweep as a process of its own."""
    script = folder / "sweep_to_kill.py"
    script.write_text(SWEEP)
    arguments = [json.dumps([spec.identity() for spec in specs]), str(runs), str(jobs)]
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_when(process: subprocess.Popen[str], sight: Callable[[str], bool]) -> list[int]:
    """Kill at the first line that is what is waited for; its children at that moment."""
    assert process.stdout
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if sight(line):
            children = offspring(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return children
    raise AssertionError(f"the sweep ended before it could be killed: {seen[-5:]}")


def offspring(parent: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # has just ended
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def whole_files(runs: Path) -> None:
    """Every record there is parses."""
    for path in runs.glob("*.json"):
        assert json.loads(path.read_text())["format"] == FORMAT


def test_a_sweep_killed_in_the_middle_of_a_run_goes_on(specs: list[RunSpec], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = start(specs[:2], runs, 1, tmp_path)
    kill_when(process, lambda line: line.startswith("epoch 2 epoch 3/"))  # the first run is done
    whole_files(runs)
    first = finished(runs, specs[0].identity())
    assert first and finished(runs, specs[1].identity()) is None
    written = next(runs.glob("*_s1_*.json")).stat().st_mtime_ns

    events: list[Event] = []
    records = run_parallel(specs[:2], runs, jobs=1, observe=events.append)
    assert [event.kind for event in events if event.spec == specs[0]] == ["skip"]  # nothing twice ...
    assert next(runs.glob("*_s1_*.json")).stat().st_mtime_ns == written and records[0] == first
    epochs = [event.text for event in events if event.spec == specs[1] and event.kind == "epoch"]
    resumed = records[1]["log"]["resumed_from"]
    assert resumed >= 2 and epochs == [f"epoch {n}/12" for n in range(resumed + 1, 13)]
    whole = run_all(specs[:2], tmp_path / "whole")  # ... and nothing lost
    assert [r["metrics"] for r in records] == [r["metrics"] for r in whole]
    assert records[1]["log"]["epochs"] == whole[1]["log"]["epochs"]
    assert not (runs / "unfinished").exists() and len(read_records(runs)) == 2


def test_workers_end_with_their_sweep_and_leave_no_half_files(specs: list[RunSpec], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = start(specs, runs, 2, tmp_path)
    children = kill_when(process, lambda line: line.startswith("done"))
    assert len(children) >= 2
    deadline = time.monotonic() + 120  # one may still be importing on a busy machine
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in children if alive(pid)]
    for pid in left:  # these are ours: do not leave them behind if the test fails
        os.kill(pid, signal.SIGKILL)
    assert not left
    whole_files(runs)
    there = {path: path.stat().st_mtime_ns for path in runs.glob("*.json")}
    assert there
    records = run_all(specs, runs)
    assert [record["spec"]["seed"] for record in records] == [1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in there} == there  # none of them was made again
    assert [r["metrics"] for r in records] == [r["metrics"] for r in run_all(specs, tmp_path / "whole")]
