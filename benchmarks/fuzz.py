"""Thousands of spoiled inputs for every parser; what comes must be a value or one printable line.

    python benchmarks/fuzz.py                          # 2,000 inputs a target
    python benchmarks/fuzz.py --inputs 20000 --only "tensor header,picture" --seed 7 --json out.json

The targets are those of `tests/fuzzing.py`. Inputs follow from the seed. Exit code 1 where something else came:
the smallest input that shows it is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzzing import TARGETS, World, attempt

import anprompt
from anprompt.checkpoint import save_adapter
from anprompt.errors import choices
from anprompt.files import write_json
from anprompt.methods import build_method

NAMES = ("blue square", "green square", "red square", "yellow square")
SHOWN = 400


def make_world(folder: Path) -> World:
    """Sound files on the embedded backbone."""
    backbone = anprompt.load_backbone("embedded")
    method = build_method("anprompt", backbone, NAMES, settings={"token_width": 16, "draws": 2})
    adapter = save_adapter(folder / "sound", method)
    (folder / "spoiled").mkdir()
    return World(folder / "spoiled", backbone, adapter)


def run(name: str, world: World, inputs: int, seed: int) -> dict[str, Any]:
    """Executions, values, refusals and the finding of one target."""
    target, counts = TARGETS[name], {"executions": 0, "values": 0}
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
    return {**counts, "refused": counts["executions"] - counts["values"], "seconds": time.perf_counter() - started,
            "finding": finding}  # fmt: skip


def main() -> int:
    """Fuzz the targets asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--only", default="", help="targets, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = [name.strip() for name in args.only.split(",") if name.strip()] or list(TARGETS)
    for name in names:
        if name not in TARGETS:
            raise choices("target", name, TARGETS)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        print(f"{'target':22} {'executions':>10} {'values':>8} {'refused':>8} {'s':>7}  finding", flush=True)
        for name in names:
            one = found[name] = run(name, world, args.inputs, args.seed)
            text = f"{one['finding']['error']} at {one['finding']['at']}" if one["finding"] else "none"
            print(f"{name:22} {one['executions']:10,} {one['values']:8,} {one['refused']:8,} {one['seconds']:7.1f}  {text}",
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
