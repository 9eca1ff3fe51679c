"""Processor seconds of a training step with and without the levers against noise, variants taking turns in one process.

    python benchmarks/lever_cost.py --classes 50            # ViT-B/16's size, random weights, about two minutes

Turns, because machines have moods; processor time of the whole process, because other programs have theirs. The
noisy class lists are made before the clock starts, as they are kept for the next turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from anprompt.backbones import load_backbone
from anprompt.methods import create_method
from anprompt.utils.files import write_json
from reference import class_names, random_vit_b16

LEVERS = {
    "none": {},
    "live": {"live_noise": 1.0},
    "live, names alone": {"live_noise": 1.0, "live_target": "classname"},
    "live and 16 anchors": {"live_noise": 1.0, "anchor_words": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit-b16", help="vit-b16 (random weights), embedded, or a folder")
    parser.add_argument("--method", default="anprompt")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = random_vit_b16() if args.backbone == "vit-b16" else load_backbone(args.backbone)
    names, size = class_names(args.classes), backbone.dims.image_size
    pixels = torch.randn(args.batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(args.classes, (args.batch,), generator=torch.Generator().manual_seed(0))
    methods = {
        title: create_method(args.method, backbone, names, settings={"live_draws": 1, **levers}, seed=1)
        for title, levers in LEVERS.items()
    }
    classes = next(iter(methods.values())).prepare(names)
    times: dict[str, list[float]] = {title: [] for title in methods}
    for _ in range(args.turns + 1):
        for title, method in methods.items():
            started = time.process_time()
            torch.stack(list(method.loss(method.image_state(pixels), labels, classes).values())).sum().backward()
            method.zero_grad(set_to_none=True)
            times[title].append(time.process_time() - started)
    seconds = {title: statistics.median(taken[1:]) for title, taken in times.items()}
    for title, value in seconds.items():
        print(f"{title:22s} {value:7.3f} s a step   {value / seconds['none']:.2f} times")
    if args.out:
        write_json(
            args.out, {"backbone": backbone.id, "classes": args.classes, "batch": args.batch, "seconds": seconds}
        )


if __name__ == "__main__":
    main()
