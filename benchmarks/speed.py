"""Speed and memory of training and use, next to a plain reference step in the same process.

    python benchmarks/speed.py --out benchmarks/results/speed.json          # all sections, about 12 minutes
    python benchmarks/speed.py --sections step --classes 50 --repeats 2     # a short look
    python benchmarks/speed.py --device cuda --precision bf16

Sections: parity (loss and gradients of "shared" against "field"), step (the method's training step against the
number of classes), text (text encoding, forward and backward), methods (every method of the registry), eval (a
picture at use), profile (where a step's time goes), floor (floating-point operations that remain), memory (peak
of one step, each in a process of its own). Variants: "field" is the reference step (benchmarks/reference.py),
"field+" the same with this library's faster products, "shared" what the library does, "bank" the same with trunk
activations and frozen features given, as a view bank gives them. Variants take turns; the best time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.backbones.linear import quicken, restore
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.methods.classifier import Classifier
from anprompt.prompting.compute import autocast
from anprompt.utils.files import write_json, write_text
from anprompt.utils.machine import hardware, in_words, peak_memory_mb, reset_peak_memory
from operations import step_operations
from plot import svg
from reference import class_names, field_bank, random_vit_b16, see_apart

SECTIONS = ("parity", "step", "text", "methods", "eval", "profile", "floor", "memory")
TRAINED = ("coop", "cocoop", "maple", "promptsrc", "mmrl", "mmrlpp", "anprompt")
FEW = 100  # classes up to which the reference is also run with the faster products
Seconds = dict[str, float]


# --- timing ---------------------------------------------------------------------------------------
def once(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, on an accelerator by its own events."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    run()
    events[1].record()
    torch.cuda.synchronize()
    return events[0].elapsed_time(events[1]) / 1000


def best_of(variants: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> Seconds:
    """Best seconds of each variant after one round of warming up; they take turns."""
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            times[name].append(once(run, device))
    return {name: min(values) for name, values in times.items()}


# --- what is timed --------------------------------------------------------------------------------
class Bench:
    """A backbone, pictures and labels, and the ways to run a step."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        self.args = args
        self.device = torch.device(args.device)
        backbone = random_vit_b16() if args.backbone == "vit-b16" else load_backbone(args.backbone)
        self.backbone: Backbone = backbone.to(self.device)
        generator, size = torch.Generator().manual_seed(0), backbone.dims.image_size
        self.pixels = torch.randn(args.batch, 3, size, size, generator=generator).to(self.device)

    def method(self, name: str, classes: int) -> Method:
        settings = {"draws": 1} if name == "anprompt" else {}
        settings |= {"teacher_templates": 1} if name == "promptsrc" else {}
        method = build_method(name, self.backbone, class_names(classes), settings=settings, seed=1)
        return method.to(self.device)

    def labels(self, classes: int) -> Tensor:
        return (torch.arange(self.args.batch) % classes).to(self.device)

    def step(
        self, method: Method, engine: str, bank: Any, see: Callable[[], Any], stock: bool | None = None
    ) -> Callable[[], None]:
        """Forward, loss, backward and optimizer; with torch's stock layers where `stock` (None: if plain)."""
        stock = engine == "plain" if stock is None else stock
        labels = self.labels(len(bank.classnames))
        optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-6)

        def run() -> None:
            (restore if stock else quicken)(self.backbone)
            method.engine = engine
            with autocast(self.device, self.args.precision):
                parts = method.loss(see(), labels, bank)
            torch.stack([part.float() for part in parts.values()]).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    def steps(self, name: str, classes: int, variants: Sequence[str]) -> dict[str, Callable[[], None]]:
        """Training steps of one method: "field", "field+", "plain", "shared", "bank"."""
        method = self.method(name, classes)
        bank, seen = method.prepare(method.trained_classnames), method.image_state(self.pixels)
        prompted = name in ("mmrl", "mmrlpp", "anprompt")
        apart = (lambda: see_apart(method, self.pixels)) if prompted else (lambda: method.image_state(self.pixels))
        ways = {
            "field": lambda: self.step(method, "plain", field_bank(method, method.trained_classnames), apart),
            "field+": lambda: self.step(
                method, "plain", field_bank(method, method.trained_classnames), apart, stock=False
            ),
            "plain": lambda: self.step(method, "plain", bank, lambda: method.image_state(self.pixels)),
            "shared": lambda: self.step(method, "shared", bank, lambda: method.image_state(self.pixels)),
            "bank": lambda: self.step(method, "shared", bank, lambda: seen),
        }
        return {variant: ways[variant]() for variant in variants}

    def text(self, classes: int, variants: Sequence[str]) -> dict[str, Callable[[], None]]:
        """Text encoding of a class list, forward and backward."""
        method = self.method(self.args.method, classes)
        names = method.trained_classnames
        banks = {v: field_bank(method, names) if v == "field" else method.prepare(names) for v in variants}

        def way(variant: str) -> Callable[[], None]:
            def run() -> None:
                (restore if variant == "field" else quicken)(self.backbone)
                method.engine = "plain" if variant == "field" else "shared"
                with autocast(self.device, self.args.precision):
                    text = method.encode_classes(banks[variant])["text"]
                (text * text.detach().roll(1, 0)).sum().backward()
                method.zero_grad(set_to_none=True)

            return run

        return {variant: way(variant) for variant in variants}


# --- sections -------------------------------------------------------------------------------------
def section_parity(bench: Bench) -> list[dict[str, Any]]:
    """Largest relative difference of the loss and of a gradient between "shared" and "field"."""
    rows = []
    for classes in bench.args.classes[:1]:
        method = bench.method(bench.args.method, classes)
        found = {}
        for engine in ("plain", "shared"):
            plain = engine == "plain"
            (restore if plain else quicken)(bench.backbone)
            method.engine = engine
            bank = (field_bank if plain else lambda m, names: m.prepare(names))(method, method.trained_classnames)
            seen = see_apart(method, bench.pixels) if plain else method.image_state(bench.pixels)
            loss = torch.stack([p.float() for p in method.loss(seen, bench.labels(classes), bank).values()]).sum()
            loss.backward()
            found[engine] = float(loss.detach()), [p.grad.clone() for p in method.parameters() if p.requires_grad]
            method.zero_grad(set_to_none=True)
        (loss, ours), (reference, theirs) = found["shared"], found["plain"]
        errors = [float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(ours, theirs)]
        rows.append({"classes": classes, "loss": abs(loss - reference) / abs(reference), "gradient": max(errors)})
        print(f"parity, {classes} classes: loss {rows[-1]['loss']:.1e}, gradients {max(errors):.1e}", flush=True)
    return rows


def section_profile(bench: Bench) -> dict[str, float]:
    """Shares of a "shared" step's time by operator, the largest first."""
    run = bench.steps(bench.args.method, bench.args.classes[0], ("shared",))["shared"]
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(times.values())
    shares = {k: v / total for k, v in sorted(times.items(), key=lambda pair: -pair[1])[:12]}
    for key, share in shares.items():
        print(f"profile, {key:40s} {100 * share:5.1f} %", flush=True)
    return shares


def with_ratios(seconds: Seconds) -> dict[str, Any]:
    """Seconds and how many times faster than "field"."""
    ratios = {v: seconds["field"] / s for v, s in seconds.items() if v != "field"} if "field" in seconds else {}
    return {"seconds": seconds, "ratio": ratios}


def show(what: str, row: dict[str, Any]) -> None:
    cells = [
        f"{v} {s:.3f} s" + (f" ({row['ratio'][v]:.1f}x)" if v in row["ratio"] else "")
        for v, s in row["seconds"].items()
    ]
    print(f"{what:24s} " + "   ".join(cells), flush=True)


def section_step(bench: Bench) -> list[dict[str, Any]]:
    rows = []
    for classes in bench.args.classes:
        variants = ("field", "field+", "shared", "bank") if classes <= FEW else ("field", "shared", "bank")
        row = with_ratios(best_of(bench.steps(bench.args.method, classes, variants), bench.args.repeats, bench.device))
        rows.append({"classes": classes, **row})
        show(f"step, {classes} classes", row)
    return rows


def section_text(bench: Bench) -> dict[str, Any]:
    rows = []
    for classes in bench.args.text_classes:
        variants = ("field", "shared") if classes <= bench.args.field_most else ("shared",)
        row = with_ratios(best_of(bench.text(classes, variants), bench.args.repeats, bench.device))
        rows.append({"classes": classes, **row})
        show(f"text, {classes} classes", row)
    return {"rows": rows, "seconds_per_class": {v: slope(rows, v) for v in ("field", "shared")}}


def slope(rows: Sequence[dict[str, Any]], variant: str) -> float | None:
    """Seconds per added class, between the smallest and the largest list measured."""
    found = [(row["classes"], row["seconds"][variant]) for row in rows if variant in row["seconds"]]
    if len(found) < 2:
        return None
    (c0, s0), (c1, s1) = found[0], found[-1]
    return (s1 - s0) / (c1 - c0)


def section_methods(bench: Bench) -> dict[str, Any]:
    rows = {}
    for name in TRAINED:
        ways = bench.steps(name, bench.args.method_classes, ("field", "plain", "shared"))
        rows[name] = with_ratios(best_of(ways, bench.args.repeats, bench.device))
        show(f"{name}, {bench.args.method_classes} classes", rows[name])
    return {"classes": bench.args.method_classes, "methods": rows}


def section_eval(bench: Bench) -> dict[str, Any]:
    """Seconds per picture once the class list is encoded."""
    quicken(bench.backbone)
    ways = {}
    for name in ("zeroshot", bench.args.method):
        classifier = Classifier(bench.method(name, bench.args.method_classes))
        ways[name] = lambda classifier=classifier: classifier.logits(bench.pixels)
    seconds = best_of(ways, bench.args.repeats, bench.device)
    row = {name: value / bench.args.batch for name, value in seconds.items()}
    print("eval, per picture        " + "   ".join(f"{n} {s:.4f} s" for n, s in row.items()), flush=True)
    return {"seconds_per_picture": row, "price": row[bench.args.method] / row["zeroshot"]}


def section_memory(bench: Bench) -> list[dict[str, Any]]:
    """Peak resident memory of one step, each measured in a process of its own."""
    rows = []
    for classes in bench.args.memory_classes:
        for variant in ("field", "shared", "chunks"):
            if variant == "field" and classes > bench.args.field_most:
                continue
            command = [sys.executable, __file__, "--one-memory", f"{variant}:{classes}"]
            command += ["--backbone", bench.args.backbone, "--method", bench.args.method]
            command += ["--threads", str(bench.args.threads), "--batch", str(bench.args.batch)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"memory, {variant} at {classes} classes: failed ({done.returncode})", flush=True)
                continue
            rows.append({"variant": variant, "classes": classes, **json.loads(done.stdout.splitlines()[-1])})
            print(f"memory, {variant}, {classes} classes: {rows[-1]['step_mb']:.0f} MB", flush=True)
    return rows


def one_memory(args: argparse.Namespace) -> None:
    """Print the peak of one step over what stood before it, and in total."""
    from anprompt.prompting.shared_text import text_memory

    variant, classes = args.one_memory.split(":")
    bench = Bench(args)
    run = bench.steps(args.method, int(classes), ("field",) if variant == "field" else ("shared",))
    reset_peak_memory()
    before = peak_memory_mb()
    with text_memory(0 if variant == "chunks" else 2 << 30):
        next(iter(run.values()))()
    print(json.dumps({"before_mb": before, "step_mb": peak_memory_mb() - before, "total_mb": peak_memory_mb()}))


def section_floor(bench: Bench) -> list[dict[str, Any]]:
    """Multiply-adds of the linear layers that remain after exact sharing."""
    rows = []
    for classes in (50, 500, 1000):
        method = bench.method(bench.args.method, classes)
        bank = method.prepare(method.trained_classnames)
        counts = step_operations(bench.backbone.dims, bank.packing, method.first_block, 5, bench.args.batch)
        rows.append({"classes": classes, "gflop": counts, "ratio": {k: counts["field"] / v for k, v in counts.items()}})
        print(
            f"floor, {classes} classes     " + "   ".join(f"{k} {v:.0f} GFLOP" for k, v in counts.items()), flush=True
        )
    return rows


# --- command line ---------------------------------------------------------------------------------
def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--backbone", default="vit-b16", help="vit-b16 (random weights), embedded, or a folder")
    parser.add_argument("--method", default="anprompt")
    parser.add_argument("--classes", type=numbers, default=[50, 500])
    parser.add_argument("--text-classes", type=numbers, default=[10, 50, 100, 500, 1000])
    parser.add_argument("--memory-classes", type=numbers, default=[100, 250, 500, 1000])
    parser.add_argument("--method-classes", type=int, default=20)
    parser.add_argument("--field-most", type=int, default=500, help="largest list the reference is run on")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--one-memory", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if args.one_memory:
        return one_memory(args)
    bench = Bench(args)
    result: dict[str, Any] = {"backbone": bench.backbone.id, "method": args.method, "batch": args.batch,
                              "precision": args.precision, "torch": torch.__version__,
                              "machine": hardware(bench.device), "load_before": os.getloadavg()[0]}  # fmt: skip
    print(in_words(result["machine"]), flush=True)  # speeds of different products are not to be compared
    for name in args.sections.split(","):
        result[name] = globals()[f"section_{name}"](bench)
        if args.out:
            write_json(args.out, result)
            if "step" in result or "text" in result:
                write_text(args.out.with_suffix(".svg"), svg(result))


if __name__ == "__main__":
    main()
