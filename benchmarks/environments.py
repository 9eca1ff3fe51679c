"""Tests in many environments: no outcome may depend on the machine.

    python benchmarks/environments.py                                   # tests of numbers, every environment
    python benchmarks/environments.py --only onednn-off,threads-4 tests/classifier/test_sklearn.py
    python benchmarks/environments.py --only combined-1,combined-2 tests        # whole suite, two runs cover most
    python benchmarks/environments.py --python /opt/py312/bin/python            # another interpreter, installed before

Each environment is one pytest process with variables set (or taken away), in a checkout or a copy of it under another
path, as this user or another. Printed, and written with --json: passed, failed, skipped, seconds, and the failed tests.
Random orders need pytest-randomly and other users need root; where they aren't there, the environment is left out and said.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.errors import UserError, choices
from anprompt.utils.files import write_json
from anprompt.utils.machine import ONEDNN, hardware, in_words

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ("sklearn", "checkpoint", "sharing", "golden", "predict", "linear", "train", "distributed", "export",
           "methods_contract")  # fmt: skip
DEFAULT = [*(f"tests/test_{name}.py" for name in NUMBERS), "tests/cases/test_machines.py"]
ODD = "mit Leerzeichen und Umläuten äöü"  # a folder's name
COUNT = re.compile(r"(\d+) (passed|failed|error|skipped)")
BAD = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """What differs from a plain run.

    Attributes:
        set: variables; "{tmp}" is a fresh folder with blanks and umlauts in its name.
        unset: variables taken away.
        arguments: for pytest.
        copied: run in a copy of the checkout under a path with blanks and umlauts.
        user: run as this user (root only).
    """

    set: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    copied: bool = False
    user: str = ""


def threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


# Not with a path of other letters: safetensors and tokenizers can't open one that Python doesn't read as UTF-8.
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINAL = {"COLUMNS": "40", "NO_COLOR": "1", "TZ": "Pacific/Kiritimati"}
RANDOM = ("-p", "randomly", "-p", "no:cacheprovider")
ENVIRONMENTS: dict[str, Environment] = {
    "plain": Environment(),
    "onednn-on": Environment({ONEDNN: "on"}),
    "onednn-off": Environment({ONEDNN: "off"}),
    "threads-2": Environment(threads(2)),
    "threads-4": Environment(threads(4)),
    "cpu-default": Environment({"ATEN_CPU_CAPABILITY": "default"}),
    "cpu-avx2": Environment({"ATEN_CPU_CAPABILITY": "avx2"}),
    "cpu-avx512": Environment({"ATEN_CPU_CAPABILITY": "avx512"}),
    "onednn-avx2": Environment({ONEDNN: "on", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "onednn-sse41": Environment({ONEDNN: "on", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "mkl-compatible": Environment({ONEDNN: "off", "MKL_CBWR": "COMPATIBLE"}),
    "mkl-sse": Environment({ONEDNN: "off", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    "temporary-folder": Environment({"TMPDIR": "{tmp}"}),
    "checkout-path": Environment(copied=True),
    "ascii": Environment(ASCII),
    "no-home": Environment(unset=("HOME", "XDG_CACHE_HOME")),
    "home-unwritable": Environment({"HOME": "/proc/none"}, unset=("XDG_CACHE_HOME",)),
    "terminal": Environment(TERMINAL),
    "random-order": Environment(arguments=(*RANDOM, "-p", "no:xdist")),
    "other-user": Environment(user="nobody", unset=("HOME",)),
    # Few runs that cover all of the above:
    "combined-1": Environment(
        {**threads(2), "LC_ALL": "C", **TERMINAL, ONEDNN: "off", "ATEN_CPU_CAPABILITY": "avx2", "TMPDIR": "{tmp}"},
        copied=True,
    ),
    "combined-2": Environment(
        {**threads(4), ONEDNN: "on", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2",
         "HOME": "/proc/none", "TMPDIR": "{tmp}"},
        unset=("XDG_CACHE_HOME",),
    ),
}  # fmt: skip


def impossible(environment: Environment, python: str) -> str:
    """Why an environment can't be had here; empty where it can."""
    if environment.user and os.geteuid() != 0:
        return "needs root"
    if (
        environment.user
        and subprocess.run(
            ["su", "-s", "/bin/sh", environment.user, "-c", f"{shlex.quote(python)} -c 0"], capture_output=True
        ).returncode
    ):
        return f"{environment.user} can't run {python}"
    if "randomly" in environment.arguments:
        known = subprocess.run([python, "-c", "import pytest_randomly"], capture_output=True).returncode == 0
        return "" if known else "needs pytest-randomly (pip install --target FOLDER, PYTHONPATH=FOLDER)"
    return ""


def checkout_copy(folder: Path) -> Path:
    """Tracked files and new ones, with `shared/` beside them where this checkout has it."""
    target = folder / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return target


def variables(environment: Environment, root: Path, tmp: Path) -> dict[str, str]:
    """The process's environment: one thread as `make test` has it, then what this one sets."""
    found = {**os.environ, **threads(1), "TOKENIZERS_PARALLELISM": "false"}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")]))
    found.pop(ONEDNN, None)
    found |= {name: value.replace("{tmp}", str(tmp)) for name, value in environment.set.items()}
    return {name: value for name, value in found.items() if name not in environment.unset}


def measured(name: str, tests: list[str], python: str, options: list[str], limit: float) -> dict[str, Any]:
    """One run of pytest: counts by outcome, seconds, failed tests."""
    environment = ENVIRONMENTS[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        tmp = folder / ODD
        tmp.mkdir(mode=0o777)
        tmp.chmod(0o777)
        root = checkout_copy(tmp) if environment.copied else ROOT
        order = () if "randomly" in environment.arguments else ("-p", "no:randomly")
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", *order, *environment.arguments, *options, *tests]
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command, cwd=root, env=variables(environment, root, tmp), capture_output=True, text=True, errors="replace",
                user=environment.user or None, timeout=limit, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired:
            output, code = "", -1
        seconds = time.perf_counter() - started
    counts = {word: int(number) for number, word in COUNT.findall("\n".join(output.splitlines()[-3:]))}
    return {
        "passed": counts.get("passed", 0), "failed": counts.get("failed", 0) + counts.get("error", 0),
        "skipped": counts.get("skipped", 0), "exit": code, "seconds": round(seconds, 1), "tests": BAD.findall(output),
        "said": "" if code in (0, 1) else (output or "ran past the limit")[-2000:],
    }  # fmt: skip


def lines(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A Markdown table, then what failed."""
    yield "| environment | passed | failed | skipped | seconds |"
    yield "|---|---:|---:|---:|---:|"
    for name, run in found.items():
        if "left out" in run:
            yield f"| {name} | left out: {run['left out']} | | | |"
        else:
            yield f"| {name} | {run['passed']} | {run['failed']} | {run['skipped']} | {run['seconds']:.0f} |"
    for name, run in found.items():
        for test in run.get("tests", []):
            yield f"{name}: {test}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", default=DEFAULT)
    parser.add_argument("--only", default="", help="environments, separated by commas (all but the combined ones)")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--options", default="", help="further words for pytest, separated by blanks")
    parser.add_argument("--limit", type=float, default=5400, help="seconds a run may take")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else [n for n in ENVIRONMENTS if not n.startswith("combined")]
    for name in names:
        if name not in ENVIRONMENTS:
            raise choices("environment", name, ENVIRONMENTS)
    print(in_words(hardware()), flush=True)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        reason = impossible(ENVIRONMENTS[name], args.python)
        run = (
            {"left out": reason}
            if reason
            else measured(name, args.tests, args.python, args.options.split(), args.limit)
        )
        found[name] = run
        print(f"{name}: {run}", flush=True)
    print("\n".join(lines(found)))
    if args.json:
        write_json(args.json, {"machine": hardware(), "python": args.python, "tests": args.tests, "runs": found})
    return int(any(run.get("exit", 0) for run in found.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"environments.py: {error}")
