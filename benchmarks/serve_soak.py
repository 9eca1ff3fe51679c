"""An hour of `anprompt serve` with one request in five hostile: is every good answer right, soon, and the memory flat?

    python benchmarks/serve_soak.py --minutes 3                  # a try
    python benchmarks/serve_soak.py --json soak.json             # an hour

Good requests are sent by `--clients` connections, before the hour and after it alone (the quiet time), and during it beside
hostile ones, whose share is of all requests. Each good answer is compared with the offline one. The machine's load is
noted, since others' work makes every figure larger; the p99 is to be compared with the quiet p99 of the same run.
A line a minute: requests, wrong answers, p50 and p99 of the minute, memory of the service and of its readers, load.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from PIL import Image

from anprompt.serve.metrics import resident_bytes
from anprompt.utils.files import write_json
from anprompt.utils.machine import hardware
from serve_load import Call, bad_calls, expected, form, make_adapter, make_files, mismatch, served

QUIET = 0.1  # share of the time before, and again after
PAUSE = 0.05  # seconds between two requests of a connection: the service is in use, not at its limit
Hostile = Callable[[int], None]


# --- hostile traffic --------------------------------------------------------------------------------
def post(port: int, body: bytes, kind: str, wait: float = 40.0) -> None:
    """One request whose answer may be anything but a 200 that hides what was wrong."""
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    raw(port, head.encode() + body, wait)


def raw(port: int, data: bytes, wait: float = 40.0) -> bytes:
    """Send bytes and read what comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        try:
            line.sendall(data)
            answer = b""
            while piece := line.recv(65536):
                answer += piece
        except (ConnectionError, TimeoutError):
            return b""
    return answer


def leave(port: int, data: bytes, after: float) -> None:
    """Send bytes, wait, and go."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(data)
        time.sleep(after)


def image(kind: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """A plain image: few bytes, many pixels."""
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def hostile_kinds(good: bytes, names: Sequence[str]) -> dict[str, Hostile]:
    """Every kind of hostile request by name."""
    kind = "application/json"
    picture = base64.b64encode(good).decode()
    large, strip = image("PNG", (4900, 5000)), image("PNG", (1, 20_000_000), "L")
    marks = "a" + "\u0301" * 150_000 + "\u0327" * 150_000
    body, headers = form(good, names)

    def as_json(**values: Any) -> Hostile:
        data = json.dumps({"pictures": [picture], **values}).encode()
        return lambda port: post(port, data, kind)

    def as_form(*images: bytes) -> Hostile:
        data = json.dumps({"pictures": [base64.b64encode(one).decode() for one in images]}).encode()
        return lambda port: post(port, data, kind)

    start = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {headers['Content-Type']}\r\n".encode()
    get = b"GET /v1/info HTTP/1.1\r\nConnection: close\r\n"
    made: dict[str, Hostile] = {
        "marks": as_json(classes=[marks, "b"]), "ligatures": as_json(classes=["\ufdfa" * 200_000, "b"]),
        "new class lists": lambda port: as_json(classes=[f"thing {random.random()}" for _ in range(300)])(port),
        "influence": as_json(influence=True), "depth": lambda port: post(port, b"[" * 1_000_000, kind),
        "digits": lambda port: post(port, b'{"top":' + b"9" * 1_000_000 + b"}", kind),
        "large": as_form(large), "many large": as_form(*[large] * 16), "strip": as_form(strip),
        "cut": as_form(good[: len(good) // 2]), "no image": as_form(b"hello"), "16-bit": as_form(image("PNG", (4900, 5000), "I;16")),
        "parts": lambda port: post(port, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 20_000,
                                   "multipart/form-data; boundary=x"),
        "charset": lambda port: post(port, body, headers["Content-Type"] + "; charset=idna"),
        "hosts": lambda port: raw(port, get + b"Host: [::1].evil.com\r\n\r\n") and None,
        "origins": lambda port: raw(port, get + b"Host: localhost\r\nOrigin: http://[\r\n\r\n") and None,
        "no HTTP": lambda port: raw(port, os.urandom(2000) + b"\r\n\r\n") and None,
        "headers": lambda port: raw(port, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000) and None,
        "crumbs": lambda port: raw(port, start + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000) and None,
        "leaves": lambda port: leave(port, start + f"Content-Length: {len(body)}\r\n\r\n".encode() + body, 0.0),
        "leaves half-way": lambda port: leave(port, start + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:500], 0.2),
        "slow header": lambda port: leave(port, b"GET / HTTP/1.1\r\nHost: loc", 3.0),
        "slow body": lambda port: leave(port, start + b"Content-Length: 9000\r\n\r\n--", 3.0),
        "pipeline": lambda port: raw(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50 + get + b"Host: x\r\n\r\n") and None,
        "takes nothing": lambda port: leave(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100, 2.0),
        "too large": lambda port: post(port, bytes(10_500_000), kind),
    }  # fmt: skip
    for number, (wrong, its, _, _) in enumerate(bad_calls(good)):
        if set(its) == {"Content-Type"} and len(wrong) < 10**6:
            made[f"bad {number}"] = lambda port, wrong=wrong, its=its: post(port, wrong, its["Content-Type"])
    return made


# --- good traffic -----------------------------------------------------------------------------------
class Good:
    """Connections that send good requests, and what came of each."""

    def __init__(self, port: int, calls: Sequence[Call]) -> None:
        self.port, self.calls, self.lock = port, calls, threading.Lock()
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self.again = 0

    def work(self, until: float, number: int) -> None:
        """Send requests until that time."""
        import http.client

        rng = random.Random(number)
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.monotonic() < until:
            body, headers, status, want = rng.choice(self.calls)
            begun = time.perf_counter()
            try:
                line.request("POST", "/v1/predict", body, dict(headers))
                got = line.getresponse()
                fault = mismatch((got.status, got.read()), status, want)
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault = f"no answer: {type(error).__name__}: {error}"
                line.close()
            with self.lock:
                self.seconds.append(time.perf_counter() - begun)
                self.again += "status 503" in fault
                if fault and "status 503" not in fault:
                    self.wrong.append(fault[:300])
            time.sleep(PAUSE * rng.uniform(0.5, 1.5))
        line.close()


def readers_bytes(pid: int) -> int:
    """Resident memory of the service's reading processes."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return sum(resident_bytes(child) for child in children)


def phase(name: str, port: int, pid: int, calls: Sequence[Call], seconds: float, clients: int,
          hostile: dict[str, Hostile] | None = None, share: float = 0.2) -> dict[str, Any]:  # fmt: skip
    """Traffic for so long; what came of it, and the memory by minute."""
    good, until = Good(port, calls), time.monotonic() + seconds
    sent: Counter[str] = Counter()
    failed: Counter[str] = Counter()

    def attack(number: int) -> None:
        rng = random.Random(1000 + number)
        while time.monotonic() < until:
            total = sum(sent.values())
            if total >= share / (1 - share) * (len(good.seconds) + 1):
                time.sleep(0.02)
                continue
            kind = rng.choice(sorted(hostile or {}))
            sent[kind] += 1
            try:
                (hostile or {})[kind](port)
            except OSError as error:
                failed[f"{kind}: {type(error).__name__}"] += 1

    threads = [threading.Thread(target=good.work, args=(until, number), daemon=True) for number in range(clients)]
    threads += [threading.Thread(target=attack, args=(number,), daemon=True) for number in range(8 if hostile else 0)]
    for thread in threads:
        thread.start()
    memory, seen = [], 0
    while time.monotonic() < until:
        time.sleep(min(60.0, max(until - time.monotonic(), 0.01)))
        minute, seen = good.seconds[seen:], len(good.seconds)
        memory.append([round(n / 1e6) for n in (resident_bytes(pid), readers_bytes(pid))])
        print(f"{name:8} {seen:7} good {sum(sent.values()):6} hostile {len(good.wrong):4} wrong {good.again:4} busy   {times(minute)}"
              f"   {memory[-1][0]} + {memory[-1][1]} MB   load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    for thread in threads:
        thread.join(60)
    print(f"{name:8} all: {times(good.seconds)}", flush=True)
    return {"good": len(good.seconds), "hostile": dict(sorted(sent.items())), "unanswered_hostile": dict(failed),
            "wrong": good.wrong[:20], "wrong_count": len(good.wrong), "busy": good.again, "p50_ms": cut(good.seconds, 50),
            "p99_ms": cut(good.seconds, 99), "memory_mb": memory, "load": os.getloadavg()[0]}  # fmt: skip


def cut(seconds: Sequence[float], percent: int) -> float:
    """A percentile in milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=100)[percent - 1] if len(seconds) > 1 else float("nan")


def times(seconds: Sequence[float]) -> str:
    return f"p50 {cut(seconds, 50):6.0f} ms  p99 {cut(seconds, 99):6.0f} ms"


def main() -> int:
    """Quiet, hostile, quiet; 1 where an answer was wrong, p99 more than thrice the quiet one, or memory grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        offline, files = make_adapter(Path(folder) / "adapter"), make_files(Path(folder) / "images", 40)
        names = list(offline.classes_)
        lists = [names, [*names[:5], "a thing never seen"]]
        calls = [(*form(path.read_bytes(), one), 200, want)
                 for one in lists for path, want in zip(files, expected(offline, files, one))]  # fmt: skip
        hostile = hostile_kinds(files[0].read_bytes(), names)
        with served(Path(folder) / "adapter") as (port, pid):
            phase("warm", port, pid, calls, 10, args.clients)
            quiet, loud = 60 * args.minutes * QUIET, 60 * args.minutes * (1 - 2 * QUIET)
            result = {"machine": hardware(), "minutes": args.minutes, "clients": args.clients,
                      "before": phase("before", port, pid, calls, quiet, args.clients),
                      "hostile": phase("hostile", port, pid, calls, loud, args.clients, hostile),
                      "after": phase("after", port, pid, calls, quiet, args.clients)}  # fmt: skip
    return verdict(result, args.json)


def verdict(result: dict[str, Any], path: Path | None) -> int:
    """Print and keep what was found."""
    calm = max(result["before"]["p99_ms"], result["after"]["p99_ms"])
    ratio = result["hostile"]["p99_ms"] / calm
    wrong = sum(result[name]["wrong_count"] for name in ("before", "hostile", "after"))
    memory = [service for service, _ in result["hostile"]["memory_mb"]]
    third = max(1, len(memory) // 3)
    grown = statistics.mean(memory[-third:]) - statistics.mean(memory[third : 2 * third] or memory)
    result |= {"ratio": ratio, "grown_mb": grown}
    for fault in result["hostile"]["wrong"][:5]:
        print("   ", fault)
    print(f"{wrong} wrong answers; p99 {ratio:.2f} times the quiet one (load {result['before']['load']:.1f}, "
          f"{result['hostile']['load']:.1f}, {result['after']['load']:.1f}); memory of the last third "
          f"{grown:+.0f} MB against the middle one", flush=True)  # fmt: skip
    if path:
        write_json(path, result)
    return 1 if wrong or ratio > 3 or grown > 50 else 0


if __name__ == "__main__":
    sys.exit(main())
