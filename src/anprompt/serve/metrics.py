"""Counters, gauges and histograms in Prometheus' text format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Histogram:
    """Counts of values up to each of a few bounds, their sum and their number."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.lock = threading.Lock()

    def add(self, value: float) -> None:
        """Count one value; from any thread."""
        with self.lock:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    def lines(self, name: str) -> list[str]:
        """The lines of the text format."""
        with self.lock:
            counts, total = list(self.counts), self.total
        made, below = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts):
            below += count
            made.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*made, f"{name}_sum {total:.6f}", f"{name}_count {below}"]


class Metrics:
    """What the service counts. `queue_length` and `running` are asked for when somebody looks."""

    def __init__(self, queue_length: Callable[[], int], running: Callable[[], int]) -> None:
        self.queue_length, self.running = queue_length, running
        self.requests: dict[tuple[str, int], int] = {}
        self.latency = Histogram(SECONDS)
        self.batches = Histogram(SIZES)
        self.lock = threading.Lock()

    def count(self, path: str, status: int) -> None:
        """One answered request. `path` must come from a fixed set, or the memory would grow with the paths."""
        with self.lock:
            self.requests[path, status] = self.requests.get((path, status), 0) + 1

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        with self.lock:
            requests = dict(sorted(self.requests.items()))
        errors = sum(count for (_, status), count in requests.items() if status >= 400)
        parts = [
            _about("anprompt_requests_total", "counter", "Requests answered, by path and status."),
            *(f'anprompt_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in requests.items()),
            _about("anprompt_errors_total", "counter", "Requests answered with a status of 400 or above."),
            f"anprompt_errors_total {errors}",
            _about("anprompt_request_seconds", "histogram", "Time of a prediction request."),
            *self.latency.lines("anprompt_request_seconds"),
            _about("anprompt_batch_pictures", "histogram", "Pictures in one pass of the model."),
            *self.batches.lines("anprompt_batch_pictures"),
            _about("anprompt_queue_pictures", "gauge", "Pictures waiting for the model."),
            f"anprompt_queue_pictures {self.queue_length()}",
            _about("anprompt_requests_running", "gauge", "Requests being read, decoded or waited for."),
            f"anprompt_requests_running {self.running()}",
            _about("process_resident_memory_bytes", "gauge", "Resident memory."),
            f"process_resident_memory_bytes {resident_bytes()}",
        ]
        return "\n".join(parts) + "\n"


def _about(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}"


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process (Linux; 0 elsewhere)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
