"""kill -9 at random moments of `anprompt fit` and of a sweep, again and again, until each is finished.

    python benchmarks/kill_fit.py                        # 50 kills each, less than four minutes on 2 quiet cores
    python benchmarks/kill_fit.py --kills 2 --json out.json

After every kill each visible file is read: JSON parses, tensors open, records have their checksum. The next start goes
on in the same folder. A finished run must equal an uninterrupted one: the adapter bit for bit, the records in
everything but times; no finished record is written twice. Then the next run begins in a new folder.

Runs are forked from this process, which has imported everything, so that a kill falls into the work and not into
starting Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process must find no threads that only its parent has
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import CLIPModel, CLIPTokenizer  # noqa: F401  what a run imports late, imported early

import anprompt.backbones.hf
import anprompt.bench
import anprompt.commands.fit
import anprompt.data.embedded
import anprompt.export  # noqa: F401
from anprompt.cli import main as command_line
from anprompt.files import read_tensors, write_json
from anprompt.machine import hardware
from anprompt.results import read_records

FIT = ("fit", "--data", "embedded:food", "--classes", "base", "--shots", "2", "--epochs", "4", "--quiet")
SWEEP = ("bench", "base-to-new", "--data", "embedded:food", "--methods", "zeroshot,anprompt", "--seeds", "1,2",
         "--shots", "1", "--set", "epochs=3", "--jobs", "1", "--json")  # fmt: skip
ADAPTER = ("adapter.safetensors", "config.json")  # the card has the name of its folder in it
TIMES = ("finished", "timings", "memory", "log")


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    finished: int = 0
    problems: list[str] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)


def start(words: tuple[str, ...], log: Path) -> int:
    """A run in a process of its own; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = command_line(list(words))
    finally:
        os._exit(code)


def run_or_kill(words: tuple[str, ...], log: Path, delay: float | None) -> int | None:
    """The exit code; None where the process was killed after `delay` seconds."""
    child = start(words, log)
    deadline = None if delay is None else time.monotonic() + delay
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.002)


def broken_files(folder: Path) -> list[str]:
    """Visible files that can't be read; names that begin with a dot are being written, or were."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder).parts
        if path.name.startswith(".") or any(part.startswith(".writing") for part in inside):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                read_tensors(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {error}")
    return found


def fit_words(folder: Path) -> tuple[str, ...]:
    return (*FIT, "--out", str(folder))


def sweep_words(folder: Path) -> tuple[str, ...]:
    return (*SWEEP, "--runs", str(folder))


def same_adapter(one: Path, other: Path) -> str:
    """What differs, or nothing."""
    return ", ".join(name for name in ADAPTER if (one / name).read_bytes() != (other / name).read_bytes())


def said(folder: Path) -> list[dict[str, Any]]:
    """Records without what is a matter of time, but with the log of their epochs."""
    return [
        {**{key: value for key, value in record.items() if key not in TIMES}, "epochs": record["log"]["epochs"]}
        for record in read_records(folder)
    ]


def same_records(one: Path, other: Path) -> str:
    left, right = said(one), said(other)
    if len(left) != len(right):
        return f"{len(left)} records instead of {len(right)}"
    return ", ".join(r["spec"]["method"] for r, s in zip(left, right) if r != s)


def torment(
    name: str, words: Callable[[Path], tuple[str, ...]], same: Callable[[Path, Path], str], base: Path, kills: int,
    rng: random.Random, until: float,
) -> Tally:  # fmt: skip
    """Kill runs until there were `kills` of them and the last one is finished too."""
    tally, log = Tally(), base / f"{name}.log"
    whole = base / f"{name}-whole"
    begun = time.monotonic()
    if run_or_kill(words(whole), log, None) != 0:
        raise SystemExit(f"the uninterrupted {name} failed:\n{log.read_text()[-2000:]}")
    takes = time.monotonic() - begun
    folder, number = base / f"{name}-0", 0
    written: dict[str, int] = {}
    while True:
        over = tally.kills >= kills or time.monotonic() > until
        delay = None if over else rng.uniform(0, takes)
        code = run_or_kill(words(folder), log, delay)
        tally.problems += broken_files(folder) if folder.exists() else []
        stamps = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.json")} if name == "sweep" else {}
        tally.problems += [f"{p} was written twice" for p, when in written.items() if stamps.get(p) != when]
        written = stamps
        if code is None:
            tally.kills += 1
            tally.moments.append(round((delay or 0.0) / takes, 3))
            continue
        if code != 0:
            tally.problems.append(f"exit code {code}: {log.read_text()[-300:]}")
            break
        tally.finished += 1
        if different := same(folder, whole):
            tally.problems.append(f"{folder.name} differs: {different}")
        if over:
            break
        number += 1
        folder, written = base / f"{name}-{number}", {}
    return tally


def main() -> int:
    """Both, with a summary; exit code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=110, help="most for each, then the last run is finished")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rng, found = random.Random(args.seed), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words, same in (("fit", fit_words, same_adapter), ("sweep", sweep_words, same_records)):
            begun = time.monotonic()
            tally = torment(name, words, same, Path(folder), args.kills, rng, begun + args.seconds)
            found[name] = {
                "kills": tally.kills, "runs finished": tally.finished, "problems": tally.problems,
                "moments": tally.moments, "seconds": round(time.monotonic() - begun, 1),
            }  # fmt: skip
            print(f"{name}: {tally.kills} kills, {tally.finished} runs finished and equal to the uninterrupted one, "
                  f"{len(tally.problems)} problems, {found[name]['seconds']} s", flush=True)  # fmt: skip
            for problem in tally.problems[:10]:
                print(f"    {problem}")
    if args.json:
        write_json(args.json, {"hardware": hardware(), "seed": args.seed, **found})
    return 1 if any(one["problems"] for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
