"""Seconds and peak memory of one training step, plain pass and exact sharing, in one process.

    python benchmarks/step.py --backbone embedded --classes 50
    python benchmarks/step.py --backbone vit-b16 --classes 50 --batch 4      # random weights, full size

"field" does what the methods' public code does: 77 text positions, all blocks for every class, the frozen
image encoder run apart. "plain" is this library without sharing; "shared" is what it does by default.
Memory is the process's growth over what stood before the step, read from the operating system.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from anprompt.backbones import Backbone, Tokens, load_backbone
from anprompt.backbones.hf import HFClip
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.prompting import ClassBank, Vision, class_bank, unit

ENGINES = ("field", "plain", "shared")


class NumberTokenizer:
    """Stands in for CLIP's vocabulary: one id per word, so that a full-size model needs no download."""

    def __call__(self, sentence: str) -> dict[str, list[int]]:
        words = [1000 + sum(map(ord, word)) % 40000 for word in sentence.replace(".", " .").split()]
        return {"input_ids": [49406, *words, 49407]}


def random_vit_b16() -> Backbone:
    """A CLIP of ViT-B/16's size with random weights."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12,
                     "eos_token_id": 49407, "bos_token_id": 49406},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                       "num_hidden_layers": 12, "image_size": 224, "patch_size": 16},
        projection_dim=512,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return HFClip.from_model(CLIPModel(config), NumberTokenizer(), name="vit-b16, random weights")


def padded(bank: ClassBank, backbone: Backbone, length: int) -> ClassBank:
    """The same class list at the full context length, as the field's code runs it."""
    ids = torch.cat([bank.tokens.ids, bank.tokens.ids[:, -1:].expand(-1, length - bank.tokens.ids.shape[1])], dim=1)
    tokens = Tokens(ids, bank.tokens.eot)
    with torch.no_grad():
        trunk = backbone.embed_text(ids)
    return ClassBank(bank.classnames, tokens, trunk, bank.frozen, 1, bank.shared)


def step(method: Method, engine: str, bank: ClassBank, pixels: Tensor, labels: Tensor) -> None:
    """One forward and backward pass."""
    method.engine = "shared" if engine == "shared" else "plain"
    if engine == "field":
        with torch.no_grad():
            start = method.backbone.pre_norm(method.backbone.embed_image(pixels))
            frozen = unit(method.backbone.encode_image(pixels))
            vision = Vision(method.backbone.run_image(start, 1, method.first_block - 1), frozen)
    else:
        vision = method.see(pixels)
    sum(method.loss(vision, labels, bank).values()).backward()  # type: ignore[union-attr]
    method.zero_grad(set_to_none=True)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(args: argparse.Namespace) -> dict:
    """Median seconds per step of each engine, and the peak memory of the process after each."""
    torch.set_num_threads(args.threads)
    backbone = random_vit_b16() if args.backbone == "vit-b16" else load_backbone(args.backbone)
    names = [f"thing number {i} of many" if i % 3 else f"thing {i}" for i in range(args.classes)]
    method = build_method(args.method, backbone, names, settings={"draws": 2}, seed=1)
    size, generator = backbone.dims.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randn(args.batch, 3, size, size, generator=generator)
    labels = torch.randint(args.classes, (args.batch,), generator=generator)
    short = method.prepare(names)
    whole = padded(class_bank(backbone, names, method.sentences(names), 1), backbone, backbone.dims.context_length)
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
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
