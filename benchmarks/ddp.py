"""How far two processes are from one, and pictures per second of each, on the embedded model.

    python benchmarks/ddp.py                       # starts the processes itself, one thread each
    python benchmarks/ddp.py --method coop --batch 32 --steps 20 --processes 2

Both runs see the same global batches of random pictures. Throughput is the global batch over the median
step of the first process, without the first steps. On two cores, two processes are the most that can gain.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.backbones import load_backbone
from anprompt.methods import build_method
from anprompt.prompting.process_group import Team, join, leave
from anprompt.training.loop import TrainConfig, fit
from anprompt.utils.files import read_tensors, write_json, write_tensors
from reference import class_names

WARM = 3  # steps left out of the median


class RandomViews:
    """Random pictures, the same in every process."""

    fingerprint = "random"

    def __init__(self, size: int, count: int, classes: int) -> None:
        self.size, self.labels = size, torch.arange(count) % classes

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, indices: Tensor, epoch: int) -> Tensor:
        rows = [torch.Generator().manual_seed(int(index)) for index in indices]
        return torch.stack([torch.randn(3, self.size, self.size, generator=g) for g in rows])


def work(args: argparse.Namespace, folder: Path, team: Team | None) -> None:
    """One process's part; the first writes what the method became and how long a step took."""
    backbone = load_backbone("embedded")
    names = class_names(args.classes)
    method = build_method(args.method, backbone, names, seed=1)
    views = RandomViews(backbone.dims.image_size, args.batch * args.steps, args.classes)
    config = TrainConfig(epochs=1, batch_size=args.batch, warmup_epochs=0, lr=args.lr)
    ends: list[float] = []
    before = {key: value.clone() for key, value in method.state_dict().items()}
    fit(method, views, config, on_step=lambda *_: ends.append(time.perf_counter()), team=team)
    if team is not None and not team.first:
        return
    size = 1 if team is None else team.size
    state = method.state_dict()
    moved = max(float((state[key] - before[key]).abs().max()) for key in state)
    seconds = statistics.median(b - a for a, b in zip(ends[WARM - 1 : -1], ends[WARM:]))
    write_tensors(folder / f"{size}.safetensors", dict(state))
    (folder / f"{size}.json").write_text(json.dumps({"seconds": seconds, "moved": moved}))


def start(processes: int, folder: Path) -> None:
    """This script again, as torchrun would start it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }  # fmt: skip
    command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)]
    running = [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    if any([process.wait() for process in running]):  # all are waited for
        raise SystemExit("a process failed")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for processes in (1, args.processes):
            start(processes, folder)
        one, many = (read_tensors(folder / f"{n}.safetensors")[0] for n in (1, args.processes))
        facts = {n: json.loads((folder / f"{n}.json").read_text()) for n in (1, args.processes)}
    rates = {str(n): args.batch / facts[n]["seconds"] for n in facts}
    return {
        "method": args.method, "classes": args.classes, "batch": args.batch, "steps": args.steps,
        "largest_difference": max(float((one[key] - many[key]).abs().max()) for key in one),
        "largest_change_by_training": facts[1]["moved"], "pictures_per_second": rates,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="anprompt")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        torch.set_num_threads(1)
        team = join("cpu") if os.environ["WORLD_SIZE"] != "1" else None
        work(args, args.folder, team)
        leave()
        return
    result = compare(args)
    print(
        f"{args.method}: parameters differ by {result['largest_difference']:.1e} at most after {args.steps} steps, which "
        f"changed them by up to {result['largest_change_by_training']:.1e}"
    )
    for processes, rate in result["pictures_per_second"].items():
        print(f"{processes} process(es)  {rate:7.1f} pictures/s")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
