"""kill -9 at random moments of `fit`, a sweep, `report`, `export` and `serve` under load, again and again.

    python benchmarks/kill_fit.py                        # 50 kills each, less than ten minutes on 2 quiet cores
    python benchmarks/kill_fit.py --kills 2 --only report,serve --json out.json

After every kill each visible file is read: JSON parses, tensors open, records have their checksum. The next start goes
on in the same folder. A finished run must equal an uninterrupted one: the adapter bit for bit, the records in
everything but times, the page and the model byte for byte; no finished record is written twice. Then the next run begins
in a new folder. The service is killed while four clients ask it; its next start must listen on the same port, answer as
before, and leave the adapter's files as they were.

Runs are forked from this process, which has imported everything, so that a kill falls into the work and not into
starting Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process must find no threads that only its parent has
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import onnx
import torch
import transformers
from transformers import CLIPModel, CLIPTokenizer  # noqa: F401  what a run imports late, imported early

import anprompt.adapters.onnx
import anprompt.backbones.hf
import anprompt.commands.bench
import anprompt.commands.fit
import anprompt.data.embedded
import anprompt.report.collect
import anprompt.serve.app
import anprompt.serve.run  # noqa: F401
from anprompt.commands.main import main as command_line
from anprompt.data.embedded import embedded_dataset
from anprompt.experiments.records import read_records
from anprompt.utils.files import read_tensors, write_json
from anprompt.utils.machine import hardware
from serve_load import form

FIT = ("fit", "--data", "embedded:food", "--classes", "base", "--shots", "2", "--epochs", "4", "--quiet")
SWEEP = ("bench", "base-to-new", "--data", "embedded:food", "--methods", "zeroshot,anprompt", "--seeds", "1,2",
         "--shots", "1", "--set", "epochs=3", "--jobs", "1", "--json")  # fmt: skip
REPORT = ("report", "{runs}", "--quiet", "--seed", "1")
EXPORT = ("export", "zeroshot", "--backbone", "embedded", "--classes", "bread,soup,cake", "--quiet")
CLIENTS = 4
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
            elif path.suffix == ".html" and not path.read_text().endswith("</html>\n"):
                raise ValueError("the page has no end")
            elif path.suffix == ".onnx":
                onnx.checker.check_model(str(path))
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


def same_page(one: Path, other: Path) -> str:
    return "" if (one / "page.html").read_bytes() == (other / "page.html").read_bytes() else "page.html"


def same_model(one: Path, other: Path) -> str:
    left, right = (json.loads((folder / "model.json").read_text()) for folder in (one, other))
    return ", ".join(key for key in right if left.get(key) != right[key])


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


# --- the service ----------------------------------------------------------------------------------
def ask(port: int, body: bytes, headers: dict[str, str]) -> Any:
    """The answers of the service, or None where it is not there."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["predictions"]
    except (OSError, ValueError):
        return None


def alike(answers: Any, expected: Any) -> bool:
    """Whether answers are the same but for their last digits, which differ with the other pictures of a batch."""
    left, right = ({top["class"]: top["probability"] for top in one[0]["top"]} for one in (answers, expected))
    return left.keys() == right.keys() and all(abs(left[key] - right[key]) < 1e-4 for key in right)


def torment_service(base: Path, kills: int, rng: random.Random, until: float) -> Tally:
    """Kill the service under load, start it again on the same port, compare answers and files."""
    tally, log, adapter = Tally(), base / "serve.log", base / "served"
    if run_or_kill(fit_words(adapter), log, None) != 0:
        raise SystemExit(f"no adapter to serve:\n{log.read_text()[-2000:]}")
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    data = embedded_dataset("food")
    data.read(data.test[0]).save(base / "picture.png")
    body, headers = form((base / "picture.png").read_bytes(), ("bread", "soup", "cake"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    expected: Any = None
    while tally.kills < kills and time.monotonic() < until:
        child = start(("serve", str(adapter), "--port", str(port), "--quiet"), log)
        over, deadline = threading.Event(), time.monotonic() + 60
        while (first := ask(port, body, headers)) is None and time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                tally.problems.append(f"did not start again: {log.read_text()[-300:]}")
                return tally
            time.sleep(0.02)
        if first is None:
            tally.problems.append("no answer within a minute")
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return tally
        expected = expected or first
        wrong: list[Any] = []

        def load(over: threading.Event = over, wrong: list[Any] = wrong, expected: Any = expected) -> None:
            while not over.is_set():
                answers = ask(port, body, headers)
                if answers is not None and not alike(answers, expected):
                    wrong.append(answers)

        clients = [threading.Thread(target=load) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        delay = rng.uniform(0, 1.5)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        over.set()
        for client in clients:
            client.join()
        tally.kills += 1
        tally.moments.append(round(delay, 3))
        if wrong or not alike(first, expected):
            tally.problems.append(f"other answers than before: {(wrong or [first])[0]}"[:300])
        if {path.name: path.read_bytes() for path in adapter.iterdir()} != before:
            tally.problems.append("the adapter's files differ")
        tally.finished += 1
    return tally


def main() -> int:
    """All, with a summary; exit code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each (default: %(default)s)")
    parser.add_argument("--only", default="fit,sweep,report,export,serve", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=110, help="most for each, then the last run is finished")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rng, found = random.Random(args.seed), {}
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        kinds: dict[str, tuple[Callable[[Path], tuple[str, ...]], Callable[[Path, Path], str]]] = {
            "fit": (fit_words, same_adapter), "sweep": (sweep_words, same_records),
            "report": (lambda folder: (*(w.format(runs=base / "records") for w in REPORT), "--html", str(folder / "page.html")), same_page),
            "export": (lambda folder: (*EXPORT, "--out", str(folder / "model.onnx")), same_model),
        }  # fmt: skip
        for name in args.only.split(","):
            if name == "report" and run_or_kill(sweep_words(base / "records"), base / "records.log", None) != 0:
                raise SystemExit((base / "records.log").read_text()[-2000:])
            begun = time.monotonic()
            until = begun + args.seconds
            if name == "serve":
                tally = torment_service(base, args.kills, rng, until)
            else:
                tally = torment(name, *kinds[name], base, args.kills, rng, until)
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
