"""Whole training runs on the embedded pictures: an epoch, what a view bank and common looks save, how good an
estimate is.

    python benchmarks/runs.py                                   # everything, about 12 minutes on 2 quiet cores
    python benchmarks/runs.py --sections epoch --sets food,sky
    python benchmarks/runs.py --sections estimate               # about 6 minutes, most of it one run at full size

"field" is the reference step of `reference.py` in an epoch of its own: every view decoded, cropped and looked at in
every step, text at the full length, all blocks. What is compared takes turns in one process; estimates are compared
with the wall time of the very command, each in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from anprompt.backbones import Backbone, load_backbone
from anprompt.backbones.linear import quicken, restore
from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset, embedded_model_folder
from anprompt.evaluation.loaders import make_views
from anprompt.methods import build_method
from anprompt.prompting.compute import threads_for
from anprompt.training.feature_cache import DiskFeatureCache, FeatureCache, MemoryFeatureCache
from anprompt.training.job import Job, plan
from anprompt.training.loop import Run, epoch_order, fit, fit_many, make_optimizer
from anprompt.utils.files import write_json
from anprompt.utils.machine import hardware, in_words
from reference import field_bank, random_vit_b16, see_apart, vit_b16

SECTIONS = ("epoch", "bank", "many", "estimate")


def job_of(backbone: Backbone, name: str, method: str = "anprompt", **train: Any) -> Job:
    """The base half of a set at 16 shots."""
    return plan(embedded_dataset(name), backbone, method=method, classes="base", train=train)


def run_of(job: Job) -> Run:
    """A run that has not begun, its pictures decoded."""
    method = build_method(
        job.method, job.backbone, job.dataset.classnames, template=job.template,
        settings=job.settings.to_dict(), seed=job.train.seed,
    )  # fmt: skip
    return Run(method, make_views(job.backbone, job.dataset, job.dataset.train, config=job.train), job.train)


def seconds(work: Callable[..., Any], *args: Any) -> float:
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


# --- sections -------------------------------------------------------------------------------------
def field_epoch(job: Job) -> None:
    """One epoch of reference steps."""
    run = run_of(job)
    method, views = run.method, run.views
    restore(job.backbone)
    method.engine = "plain"
    with threads_for(job.backbone):
        bank = field_bank(method, method.trained_classnames)
        optimizer = make_optimizer(method, job.train)
        for batch in epoch_order(len(views), job.train.batch_size, job.train.seed, 0):
            parts = method.loss(see_apart(method, views.train_batch(batch, 0)), views.labels[batch], bank)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(parts.values())).sum().backward()
            optimizer.step()
    quicken(job.backbone)


def by_library(job: Job, bank: FeatureCache | None = None) -> None:
    """All epochs of a run as the library trains it."""
    run = run_of(job)
    with threads_for(job.backbone):
        fit(run.method, run.views, job.train, bank=bank)


def section_epoch(args: argparse.Namespace, backbone: Backbone) -> list[dict[str, Any]]:
    """An epoch of each set: the reference, the library, and the library with all views in a bank."""
    rows = []
    for name in args.sets:
        job, bank = job_of(backbone, name, epochs=1), MemoryFeatureCache()
        by_library(job, bank)
        row = {
            "field": seconds(field_epoch, job),
            "shared": seconds(by_library, job),
            "bank": seconds(by_library, job, bank),
        }
        rows.append({"set": name, "steps": len(job.dataset.train) // job.train.batch_size, "seconds": row})
        print(f"epoch, {name:10s} " + "   ".join(f"{k} {v:.2f} s" for k, v in row.items()), flush=True)
    total = {k: sum(row["seconds"][k] for row in rows) for k in rows[0]["seconds"]}
    print("epoch, all        " + "   ".join(f"{k} {v:.1f} s" for k, v in total.items()), flush=True)
    return rows


def section_bank(args: argparse.Namespace, backbone: Backbone) -> list[dict[str, Any]]:
    """A whole run: without a bank, filling one on disk, and finding everything there."""
    rows = []
    for job in (job_of(backbone, args.sets[0]), small(full_size(), args.sets[0])):
        with tempfile.TemporaryDirectory() as folder:
            row = {
                "off": seconds(by_library, job),
                "filling": seconds(by_library, job, DiskFeatureCache(folder)),
                "filled": seconds(by_library, job, DiskFeatureCache(folder)),
            }
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
        rows.append({**facts(job), "seconds": row, "megabytes": size})
        print(f"bank, {job.backbone.id}: " + "   ".join(f"{k} {v:.1f} s" for k, v in row.items()) + f"   {size:.0f} MB",
              flush=True)  # fmt: skip
    return rows


def section_many(args: argparse.Namespace, backbone: Backbone) -> list[dict[str, Any]]:
    """Three learning rates of one run: one after another, and side by side on common looks."""
    rows = []
    for kind in (backbone, full_size()):
        name, jobs = args.sets[0], []
        for lr in (3e-4, 1e-3, 3e-3):
            jobs.append(job_of(kind, name, lr=lr) if kind is backbone else small(kind, name, lr=lr))
        row = {"apart": sum(seconds(by_library, job) for job in jobs), "together": seconds(together, jobs)}
        rows.append({**facts(jobs[0]), "runs": len(jobs), "seconds": row})
        print(f"many, {kind.id}: apart {row['apart']:.1f} s   together {row['together']:.1f} s", flush=True)
    return rows


def together(jobs: Sequence[Job]) -> None:
    with threads_for(jobs[0].backbone):
        fit_many([run_of(job) for job in jobs])


def section_estimate(args: argparse.Namespace, backbone: Backbone) -> list[dict[str, Any]]:
    """`anprompt fit --estimate` and the run itself, each as a command."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "vit-b16"
        save_full_size(full)
        for number, words in enumerate((
            "--data embedded:food --classes base",
            "--data embedded:sky --method maple --shots 8",
            "--data embedded:animals --method cocoop --epochs 4",
            f"--data embedded:food --classes base --shots 4 --epochs 2 --backbone {full}",
        )):  # fmt: skip
            command = [sys.executable, "-m", "anprompt", "fit", *words.split(), "--json"]
            told = json.loads(output([*command, "--estimate"]))
            took = seconds(output, [*command, "--out", f"{folder}/{number}"])
            row = {"run": words.replace(str(full), "ViT-B/16's size"), "estimate": told["seconds"], "took": took}
            rows.append({**row, "error": told["seconds"] / took - 1})
            print(f"estimate {told['seconds']:.0f} s, took {took:.0f} s ({100 * rows[-1]['error']:+.0f} %): {row['run']}",
                  flush=True)  # fmt: skip
    return rows


# --- helpers --------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=1)
def full_size() -> Backbone:
    return random_vit_b16()


def small(backbone: Backbone, name: str, **train: Any) -> Job:
    """A run short enough for a large model: four pictures a class, two epochs."""
    return plan(embedded_dataset(name), backbone, shots=4, classes="base", train={"epochs": 2, **train})


def facts(job: Job) -> dict[str, Any]:
    return {"backbone": job.backbone.id, "set": job.dataset.name, "epochs": job.train.epochs,
            "steps": job.train.epochs * (len(job.dataset.train) // job.train.batch_size)}  # fmt: skip


def save_full_size(folder: Path) -> None:
    """A hub folder of ViT-B/16's size: random weights, the embedded model's vocabulary."""
    from transformers import AutoTokenizer, CLIPConfig

    words = embedded_model_folder()
    text = CLIPConfig.from_pretrained(words).text_config
    special = {key: getattr(text, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vit_b16("gelu", **special).save_pretrained(folder)
    AutoTokenizer.from_pretrained(words).save_pretrained(folder)


def output(command: Sequence[str]) -> str:
    """What a command prints; its complaint if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--sets", default=",".join(EMBEDDED_SETS), help="bank and many use the first")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    args.sets = args.sets.split(",")
    backbone = load_backbone("embedded")
    result: dict[str, Any] = {"torch": torch.__version__, "machine": hardware(backbone.device),
                              "load_before": os.getloadavg()[0]}  # fmt: skip
    print(in_words(result["machine"]), flush=True)  # speeds of different products are not to be compared
    for name in args.sections.split(","):
        result[name] = globals()[f"section_{name}"](args, backbone)
        if args.out:
            write_json(args.out, result)


if __name__ == "__main__":
    main()
