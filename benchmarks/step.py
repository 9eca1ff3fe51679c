"""Seconds and peak memory of one training step, plain pass and exact sharing, in one process.

    python benchmarks/step.py --backbone embedded --classes 50
    python benchmarks/step.py --backbone vit-b16 --classes 50 --batch 4      # random weights, full size

"field" does what the methods' public code does: 77 text positions, all blocks for every class, the frozen
image encoder run apart. "plain" is this library without sharing; "shared" is what it does by default.
Memory is the process's growth over what stood before the step, read from the operating system.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from anprompt.backbones import load_backbone
from anprompt.backbones.linear import quicken, restore
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.prompting.prompts import ClassState
from anprompt.utils.files import write_json
from reference import class_names, field_bank, random_vit_b16, see_apart

ENGINES = ("field", "plain", "shared")


def step(method: Method, engine: str, bank: ClassState, pixels: Tensor, labels: Tensor) -> None:
    """One forward and backward pass."""
    method.engine = "shared" if engine == "shared" else "plain"
    (restore if engine == "field" else quicken)(method.backbone)
    vision = see_apart(method, pixels) if engine == "field" else method.image_state(pixels)
    sum(method.loss(vision, labels, bank).values()).backward()  # type: ignore[union-attr]
    method.zero_grad(set_to_none=True)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(args: argparse.Namespace) -> dict:
    """Median seconds per step of each engine, and the peak memory of the process after each."""
    torch.set_num_threads(args.threads)
    backbone = random_vit_b16() if args.backbone == "vit-b16" else load_backbone(args.backbone)
    names = class_names(args.classes)
    method = build_method(args.method, backbone, names, settings={"draws": 2}, seed=1)
    size, generator = backbone.dims.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randn(args.batch, 3, size, size, generator=generator)
    labels = torch.randint(args.classes, (args.batch,), generator=generator)
    short = method.prepare(names)
    whole = field_bank(method, names)
    rows: dict[str, dict[str, float]] = {}
    for engine in args.engines.split(",")[::-1]:  # the leanest first: the peak only ever grows
        bank = whole if engine == "field" else short
        times = []
        for _ in range(args.repeats + 1):
            started = time.perf_counter()
            step(method, engine, bank, pixels, labels)
            times.append(time.perf_counter() - started)
        rows[engine] = {"seconds": statistics.median(times[1:]), "peak_mb": peak_mb()}
    return {"backbone": backbone.id, "method": args.method, "classes": args.classes, "batch": args.batch,
            "threads": args.threads, "trained_parameters": method.trained_parameters(), "engines": rows}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded", help="embedded, vit-b16 (random weights), or a folder")
    parser.add_argument("--method", default="anprompt")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    result = measure(args)
    for engine, row in result["engines"].items():
        print(f"{engine:8s} {row['seconds']:8.3f} s/step   peak {row['peak_mb']:6.0f} MB")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
