"""`anprompt serve` under load: pace, latency, and whether every answer is right; embedded model, 2 cores.

    python benchmarks/serve_load.py                       # 10,000 mixed requests, a few minutes
    python benchmarks/serve_load.py --mixed 500 --requests 200 --json out.json

Three ways to name the same pictures, in the same run:

    loop       PromptClassifier.predict_proba in this process, one file at a time: no network at all
    one        the service, one request at a time
    together   the service, `--clients` connections at once (also with --batch 1: the same without batching)

The clients run on the same cores as the service. Then `--mixed` requests, one in four wrong in some way: each good
answer must equal the offline one to 1e-5, each wrong request must get its 4xx, and the service's resident memory is
read before and after.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anprompt
from anprompt.adapters.adapter import save_adapter
from anprompt.classifier import PromptClassifier
from anprompt.data.embedded import embedded_dataset
from anprompt.methods import build_method
from anprompt.serve.metrics import resident_bytes
from anprompt.utils.files import write_json
from anprompt.utils.machine import hardware, in_words

DATA = "animals"
TOLERANCE = 1e-5
MARK = "----anprompt"
Call = tuple[bytes, dict[str, str], int, dict[str, float] | None]  # body, headers, status, probabilities


def make_adapter(folder: Path) -> PromptClassifier:
    """An adapter at its seeded start: the work of answering does not depend on what was learned."""
    data = embedded_dataset(DATA)
    backbone = anprompt.load_backbone("embedded")
    save_adapter(folder, build_method("anprompt", backbone, data.classnames, template=data.template))
    return anprompt.load(folder, backbone=backbone)


def make_files(folder: Path, count: int) -> list[Path]:
    """Pictures of the embedded set, enlarged to sizes and formats that people send."""
    data, rng, files = embedded_dataset(DATA), random.Random(0), []
    folder.mkdir()
    for number, item in enumerate(rng.sample(data.test, count)):
        side, kind = rng.randint(100, 640), rng.choice(("png", "jpg", "webp"))
        files.append(folder / f"{number:03d}.{kind}")
        data.read(item).resize((side, side + rng.randint(0, 80))).save(files[-1])
    return files


@contextmanager
def served(adapter: Path, *options: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of `anprompt serve` in its own process; ended by SIGTERM, which must end well."""
    words = [sys.executable, "-u", "-m", "anprompt", "serve", str(adapter), "--port", "0", "--quiet", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        if not found:
            raise SystemExit("the service did not start")
        yield int(found[1]), process.pid
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise SystemExit(f"the service ended with {process.returncode}")
    finally:
        process.kill()


def form(picture: bytes, names: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one request."""
    head = (
        f'--{MARK}\r\nContent-Disposition: form-data; name="classes"\r\n\r\n{json.dumps(list(names))}\r\n--{MARK}\r\n'
    )
    head += 'Content-Disposition: form-data; name="top"\r\n\r\n1000\r\n'
    head += f'--{MARK}\r\nContent-Disposition: form-data; name="pictures"; filename="x"\r\n\r\n'
    body = head.encode() + picture + f"\r\n--{MARK}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={MARK}"}


def expected(offline: PromptClassifier, files: Sequence[Path], names: Sequence[str]) -> list[dict[str, float]]:
    """The offline answers."""
    return [dict(zip(names, row.tolist())) for row in offline.predict_proba(list(files), classes=names)]


class Client:
    """A connection that is kept, and what came of its requests."""

    def __init__(self, port: int) -> None:
        self.line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self.again = 0

    def ask(self, call: Call) -> None:
        body, headers, status, want = call
        begun = time.perf_counter()
        answer = self._send(body, headers)
        while answer[0] == 503:  # told to come back later
            self.again += 1
            time.sleep(0.05)
            answer = self._send(body, headers)
        self.seconds.append(time.perf_counter() - begun)
        if fault := mismatch(answer, status, want):
            self.wrong.append(fault)

    def _send(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            self.line.request("POST", "/v1/predict", body, dict(headers))
            got = self.line.getresponse()
            return got.status, got.read()
        except (ConnectionError, http.client.HTTPException):  # refused while it was still sending
            self.line.close()
            return 413, b'{"error": "connection closed"}'


def mismatch(answer: tuple[int, bytes], status: int, want: dict[str, float] | None) -> str:
    """What is wrong with an answer, or nothing."""
    got = json.loads(answer[1])
    if answer[0] != status:
        return f"status {answer[0]} instead of {status}: {got}"
    if want is None:
        return "" if set(got) == {"error"} and "\n" not in got["error"] else f"not one line: {got}"
    found = {entry["class"]: entry["probability"] for entry in got["predictions"][0]["top"]}
    if found.keys() != want.keys() or max(abs(found[name] - want[name]) for name in want) > TOLERANCE:
        return f"another answer: {found} instead of {want}"
    return ""


def drive(port: int, calls: Sequence[Call], clients: int) -> dict[str, Any]:
    """Send all calls over so many connections; pace, latencies and faults."""
    waiting = iter(calls)
    lock, made = threading.Lock(), [Client(port) for _ in range(clients)]

    def work(client: Client) -> None:
        while True:
            with lock:
                call = next(waiting, None)
            if call is None:
                return
            client.ask(call)

    threads = [threading.Thread(target=work, args=(client,)) for client in made]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return figures(time.perf_counter() - begun, [s for c in made for s in c.seconds]) | {
        "wrong": [fault for client in made for fault in client.wrong], "sent_again": sum(c.again for c in made),
    }  # fmt: skip


def figures(seconds: float, each: Sequence[float]) -> dict[str, Any]:
    """Requests per second, and the middle and slow end of their times in milliseconds."""
    cuts = statistics.quantiles(each, n=100)
    return {
        "requests": len(each),
        "per_second": len(each) / seconds,
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
    }


def plain_loop(offline: PromptClassifier, files: Sequence[Path], count: int) -> dict[str, Any]:
    """One picture at a time, without a service."""
    each = []
    for number in range(count):
        begun = time.perf_counter()
        offline.predict_proba([files[number % len(files)]])
        each.append(time.perf_counter() - begun)
    return figures(sum(each), each)


def mixed_calls(offline: PromptClassifier, files: Sequence[Path], count: int) -> list[Call]:
    """Good and bad requests in a random order; one in four is bad."""
    rng = random.Random(1)
    names = list(offline.classes_)
    lists = [names, *([*rng.sample(names, k), "a thing never seen"] for k in (2, 5, 9, 14, 20))]
    wants = [expected(offline, files, one) for one in lists]
    data = [path.read_bytes() for path in files]
    bad = list(bad_calls(data[0]))
    calls: list[Call] = []
    for _ in range(count):
        if rng.random() < 0.25:
            calls.append(rng.choice(bad))
            continue
        file, which = rng.randrange(len(files)), rng.randrange(len(lists))
        calls.append((*form(data[file], lists[which]), 200, wants[which][file]))
    return calls


def bad_calls(picture: bytes) -> Iterator[Call]:
    """Requests that must be refused, each in another way."""
    body, kind = form(picture, ["a", "b"])
    json_kind = {"Content-Type": "application/json"}
    for wrong in (b"", b"hello", b"%PDF-1.7", picture[: len(picture) // 2], b"\x89PNG\r\n\x1a\n" + bytes(100)):
        yield *form(wrong, ["a", "b"]), 400, None
    for names in (["a"], ["a", "A"], ["a", ""], ["a", "b\x00"], ["x " * 200, "y"], [str(n) for n in range(501)]):
        yield *form(picture, names), 400, None
    for text in (b"", b"{", b"[]", b'{"pictures": ["%"]}', b"[" * 10_000, b'{"pictures": [""], "top": -1}'):
        yield text, json_kind, 400, None
    yield body[:-40], kind, 400, None
    yield body, {"Content-Type": "text/plain"}, 415, None
    yield body, {**kind, "Host": "evil.example"}, 421, None
    yield body, {**kind, "Origin": "http://evil.example"}, 403, None
    yield *form(picture + bytes(11_000_000), ["a", "b"]), 413, None


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it."""
    offline, files = make_adapter(folder / "adapter"), make_files(folder / "pictures", 60)
    names = list(offline.classes_)
    wants = expected(offline, files, names)
    good: list[Call] = [(*form(path.read_bytes(), names), 200, want) for path, want in zip(files, wants)]
    calls = [good[number % len(good)] for number in range(args.requests)]
    result: dict[str, Any] = {"machine": hardware(), "clients": args.clients}
    print(in_words(result["machine"]), flush=True)  # speeds of different products are not to be compared
    show = _shower(result)
    plain_loop(offline, files, 20)
    show("loop", plain_loop(offline, files, args.requests))
    with served(folder / "adapter", "--batch", "1") as (port, _):
        drive(port, good, 2)
        show("together, batch 1", drive(port, calls, args.clients))
    with served(folder / "adapter") as (port, process):
        drive(port, good, 2)
        show("one", drive(port, calls, 1))
        show("together", drive(port, calls, args.clients))
        mixed = mixed_calls(offline, files, args.mixed)
        drive(port, mixed[: max(200, args.mixed // 20)], args.clients)  # caches and pools are full from here on
        before = resident_bytes(process)
        show("mixed", drive(port, mixed, args.clients))
        result["memory_mb"] = [round(n / 1e6, 1) for n in (before, resident_bytes(process))]
    return result


def _shower(result: dict[str, Any]) -> Callable[[str, dict[str, Any]], None]:
    def show(name: str, found: dict[str, Any]) -> None:
        result[name] = found
        wrong = found.get("wrong", [])
        print(f"{name:18} {found['requests']:6} requests {found['per_second']:8.1f}/s   p50 {found['p50_ms']:7.1f} ms   "
              f"p99 {found['p99_ms']:7.1f} ms   {len(wrong)} wrong", flush=True)  # fmt: skip
        for fault in wrong[:3]:
            print("   ", fault[:300])

    return show


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=2000, help="per way of asking")
    parser.add_argument("--mixed", type=int, default=10_000, help="mixed good and bad requests")
    parser.add_argument("--clients", type=int, default=16, help="connections at once")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the service too
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    before, after = result["memory_mb"]
    print(f"memory of the service: {before} MB before the mixed requests, {after} MB after")
    if args.json:
        write_json(args.json, result)
    return 1 if any(part.get("wrong") for part in result.values() if isinstance(part, dict)) else 0


if __name__ == "__main__":
    sys.exit(main())
