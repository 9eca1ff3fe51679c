"""Thousands of spoiled inputs for every parser; what comes must be a value or one printable line.

    python benchmarks/fuzz.py                          # 2,000 inputs a target
    python benchmarks/fuzz.py --minutes 60             # and further seeds, for an hour
    python benchmarks/fuzz.py --growth                 # how time grows with the input
    python benchmarks/fuzz.py --inputs 20000 --only "tensor header,picture" --seed 7 --json out.json

The targets are those of `tests/fuzzing.py`. Inputs follow from the seed. Exit code 1 where something else came:
the smallest input that shows it is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import growth
from tests.fuzzing import TARGETS, World, attempt

import anprompt
from anprompt.adapters.adapter import save_adapter
from anprompt.errors import choices
from anprompt.methods import build_method
from anprompt.utils.files import write_json

NAMES = ("blue square", "green square", "red square", "yellow square")
SHOWN = 400
MOST_SECONDS, SECONDS_PER_BYTE, MOST_MB = 3.0, 2e-5, 200.0  # for one input


def make_world(folder: Path) -> World:
    """Sound files on the embedded backbone."""
    backbone = anprompt.load_backbone("embedded")
    method = build_method("anprompt", backbone, NAMES, settings={"token_width": 16, "draws": 2})
    adapter = save_adapter(folder / "sound", method)
    (folder / "spoiled").mkdir()
    return World(folder / "spoiled", backbone, adapter)


class Costs:
    """Processor time and memory of each input; what is beyond any need of inputs this small is a finding."""

    def __init__(self) -> None:
        self.worst = {"cpu_seconds": 0.0, "memory_mb": 0.0}

    @contextlib.contextmanager
    def watch(self, size: int) -> Iterator[None]:
        """Measure what happens inside, and fail where it costs too much.

        Args:
            size: characters or bytes of the input.
        """
        before, begun = _peak(reset=True), time.process_time()
        yield
        taken, grown = time.process_time() - begun, (_peak() - before) / 1e6
        self.worst = {
            "cpu_seconds": max(self.worst["cpu_seconds"], taken),
            "memory_mb": max(self.worst["memory_mb"], grown),
        }
        assert taken < MOST_SECONDS + size * SECONDS_PER_BYTE, f"{taken:.1f} s for {size:,} bytes"
        assert grown < MOST_MB + size * 1e-4, f"{grown:.0f} MB for {size:,} bytes"


def _peak(reset: bool = False) -> int:
    """The largest resident size so far, in bytes; with `reset`, the present one, and counted from here (Linux)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return int(text.partition("VmRSS:" if reset else "VmHWM:")[2].split()[0]) * 1024


def run(name: str, world: World, inputs: int, seed: int) -> dict[str, Any]:
    """Executions, values, refusals and the finding of one target."""
    target, counts = TARGETS[name], {"executions": 0, "values": 0}
    costs = Costs()
    last: list[Any] = [None]

    @hypothesis.seed(seed)
    @settings(
        max_examples=inputs, deadline=None, database=None, report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs(world))
    def check(value: Any) -> None:
        counts["executions"] += 1
        last[0] = value
        with costs.watch(len(value)):
            counts["values"] += attempt(target, world, value)

    started, finding = time.perf_counter(), None
    try:
        check()
    except Exception as raised:
        error = getattr(raised, "exceptions", (raised,))[0]  # what failed once and then did not
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
        finding = {"error": f"{type(error).__name__}: {error}"[:SHOWN], "at": place, "input": repr(last[0])[:SHOWN]}
    return {**counts, **costs.worst, "refused": counts["executions"] - counts["values"], "seconds": time.perf_counter() - started,
            "finding": finding}  # fmt: skip


def grown(world: World) -> int:
    """Print how the time of every parser grows with every shape of input; 1 where twice the input takes too long."""
    bad = 0
    for name, (call, make) in growth.cases(world).items():
        ratio, at = growth.growth(call, make)
        if ratio:
            bad += ratio > growth.MOST
            print(f"{name:45} {ratio:5.1f} times at {at}{'  FINDING' if ratio > growth.MOST else ''}", flush=True)
    print(f"{len(growth.cases(world))} shapes, {bad} findings", flush=True)
    return 1 if bad else 0


def main() -> int:
    """Fuzz the targets asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--only", default="", help="targets, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--growth", action="store_true", help="measure how time grows with the input, and nothing else")
    parser.add_argument("--minutes", type=float, default=0, help="go on with further seeds for so long")
    args = parser.parse_args()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every damaged form
    names = [name.strip() for name in args.only.split(",") if name.strip()] or list(TARGETS)
    for name in names:
        if name not in TARGETS:
            raise choices("target", name, TARGETS)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        if args.growth:
            return grown(world)
        until = time.monotonic() + 60 * args.minutes
        print(
            f"{'target':22} {'executions':>10} {'values':>8} {'refused':>8} {'s':>7} {'worst s':>8} {'MB':>6}  finding",
            flush=True,
        )
        rounds = ((name, args.seed + turn) for turn in itertools.count() for name in names)
        for number, (name, seed) in enumerate(rounds):
            if number >= len(names) and time.monotonic() > until:
                break
            one = found[f"{name}, seed {seed}"] = run(name, world, args.inputs, seed)
            text = f"{one['finding']['error']} at {one['finding']['at']}" if one["finding"] else "none"
            print(f"{name:22} {one['executions']:10,} {one['values']:8,} {one['refused']:8,} {one['seconds']:7.1f} "
                  f"{one['cpu_seconds']:8.2f} {one['memory_mb']:6.0f}  {text}",
                  flush=True)  # fmt: skip
            if one["finding"]:
                print(f"    {one['finding']['input']}", flush=True)
    total, bad = sum(one["executions"] for one in found.values()), sum(bool(one["finding"]) for one in found.values())
    print(f"{total:,} executions, {bad} findings")
    if args.json:
        write_json(args.json, {"seed": args.seed, "inputs": args.inputs, "targets": found})
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
