"""A sweep on a Ray cluster of three nodes while workers, a node and the driver are killed, beside a local one.

The cluster is three nodes of one core each on this machine (`ray.cluster_utils.Cluster`). While 24 runs go on,
two workers, one node and the driver get SIGKILL; the driver is started again with the same command. Then:
every record is there, none was written twice, and all metrics are those of a local sweep. Last, the overhead:
the same finished runs are gone through once more, locally and on the cluster, with everything warm.

    python benchmarks/ray_cluster.py --out benchmarks/results/ray_cluster.json
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anprompt.utils.files import write_json

SWEEP = [
    "base-to-new", "--data", "embedded:sky,embedded:food,embedded:play", "--methods", "coop,anprompt",
    "--seeds", "1,2,3,4", "--shots", "2", "--set", "epochs=2", "--set", "batch_size=8",
]  # fmt: skip
RUNS = 24
MEMORY = 80 * 2**20  # of each node's object store; results go through the records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the findings as JSON")
    parser.add_argument("--keep", type=Path, help="folder for the records (default: a temporary one)")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", RAY_agent_register_timeout_ms="120000")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        found = {**killed_sweep(folder / "ray"), **compared(folder), **overhead(folder / "ray")}
    for key, value in found.items():
        print(f"{key:28} {value}")
    if args.out:
        write_json(args.out, found)
    good = found["records"] == RUNS and not found["written twice"] and found["metrics equal to local"] == RUNS
    sys.exit(0 if good else 1)


# --- the sweep that things happen to --------------------------------------------------------------
class Overseer:
    """Sees every record as it appears, and does what is due at a number of records.

    Attributes:
        versions: (inode, time) of each record file that was ever seen under its name.
        happened: what was done, with the number of records at that moment.
    """

    def __init__(self, runs: Path, due: list[tuple[int, str, Callable[[], bool]]]) -> None:
        self.runs, self.due = runs, due
        self.versions: dict[str, set[tuple[int, int]]] = {}
        self.happened: list[str] = []

    def look(self) -> None:
        for path in self.runs.glob("*.json"):
            status = path.stat()
            self.versions.setdefault(path.name, set()).add((status.st_ino, status.st_mtime_ns))
        if self.due and len(self.versions) >= self.due[0][0] and self.due[0][2]():
            self.happened.append(f"{self.due[0][1]} at {len(self.versions)} records")
            print(self.happened[-1], flush=True)
            self.due.pop(0)


def killed_sweep(runs: Path) -> dict[str, Any]:
    """24 runs; a worker, the driver, another worker and a node are killed on the way."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
    drivers = [drive(cluster.address, runs)]

    def node_dies() -> bool:
        cluster.remove_node(nodes[0], allow_graceful=False)
        return True

    due = [
        (3, "worker killed", kill_worker),
        (8, "driver killed", lambda: ended(drivers[-1])),
        (12, "worker killed", kill_worker),
        (16, "node killed", node_dies),
    ]
    overseer = Overseer(runs, due)
    started = time.monotonic()
    while True:
        overseer.look()
        code = drivers[-1].poll()
        if code == -signal.SIGKILL:
            drivers.append(drive(cluster.address, runs))
        elif code is not None:
            break
        time.sleep(0.05)
    seconds = time.monotonic() - started
    overseer.look()
    cluster.shutdown()
    return {
        "killed": overseer.happened, "not yet killed": [what for _, what, _ in overseer.due],
        "drivers": len(drivers), "last driver's exit code": code, "seconds": round(seconds, 1),
        "records": len(overseer.versions),
        "written twice": [name for name, seen in overseer.versions.items() if len(seen) > 1],
    }  # fmt: skip


def drive(address: str, runs: Path) -> subprocess.Popen[bytes]:
    """`anprompt bench` on the cluster, as a person starts it."""
    command = [sys.executable, "-m", "anprompt", "bench", *SWEEP, "--runs", str(runs), "--engine", "ray"]
    return subprocess.Popen([*command, "--address", address])


def ended(process: subprocess.Popen[bytes]) -> bool:
    process.kill()
    process.wait()
    return True


def kill_worker() -> bool:
    """SIGKILL to one process below this one that executes a run; False if there is none at this moment."""
    for pid in below(os.getpid()):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::work"):
                os.kill(pid, signal.SIGKILL)
                return True
        except OSError:  # has just ended
            continue
    return False


def below(top: int) -> set[int]:
    """All processes that descend from one."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {top}


# --- beside a local one ---------------------------------------------------------------------------
def compared(folder: Path) -> dict[str, Any]:
    """How many records have the very metrics of a local sweep: accuracies, predictions, calibration."""
    from anprompt.experiments.records import read_records

    command = [sys.executable, "-m", "anprompt", "bench", *SWEEP, "--runs", str(folder / "local"), "--jobs", "2"]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    metrics = [
        {record["spec_hash"]: record["metrics"] for record in read_records(folder / name)} for name in ("ray", "local")
    ]
    equal = sum(metrics[0].get(key) == value for key, value in metrics[1].items())
    return {"local seconds (2 jobs)": round(seconds, 1), "metrics equal to local": equal}


def overhead(runs: Path) -> dict[str, Any]:
    """Seconds a run costs beyond itself: finished ones gone through again, one at a time, all things loaded."""
    import ray

    from anprompt.commands.bench import specifications
    from anprompt.commands.main import parser_of
    from anprompt.experiments import ExperimentContext
    from anprompt.experiments.runners.ray import run_ray
    from anprompt.experiments.sweep import run_all

    specs = specifications(parser_of("bench").parse_args(SWEEP))
    context = ExperimentContext()
    local = warm_seconds(lambda: run_all(specs, runs, context=context))
    started = time.monotonic()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=MEMORY)
    start = time.monotonic() - started
    there = warm_seconds(lambda: run_ray(specs, runs))
    ray.shutdown()
    return {
        "cluster of one node starts in s": round(start, 1),
        "local, per finished run s": round(local / RUNS, 4),
        "ray, per finished run s": round(there / RUNS, 4),
        "overhead per run s": round((there - local) / RUNS, 4),
    }


def warm_seconds(call: Callable[[], object]) -> float:
    """The shortest of three, after one that loads everything."""
    call()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
