"""Methods side by side on one's own kind of data: all classes, 1 to 16 images each, seconds beside accuracy.

    python benchmarks/probes.py embedded:sky --out results/probes/sky.json
    python benchmarks/probes.py ../shared/real/neu_steel --methods linear-probe,anprompt --shots 16 --out steel.json

Every run is `training.job.run` as `anprompt fit` does it, without validation images; the test images are read once per
data set and what the frozen encoder makes of views is shared by the runs, so that seconds are those of learning, with the
views' features (`seconds`) or without (`again`, the same run once more from the bank, for methods on frozen features).
What is there already is kept; a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from anprompt.backbones import load_backbone
from anprompt.data.sources import open_dataset
from anprompt.evaluation.inference import image_states, logits_of
from anprompt.evaluation.loaders import make_views
from anprompt.methods import Classifier, get_preset
from anprompt.methods.registry import get_method
from anprompt.training.auto import choose
from anprompt.training.feature_cache import MemoryFeatureCache
from anprompt.training.job import Job, plan, run
from anprompt.utils.files import write_json

FAST = "zeroshot,linear-probe,ncm,tip-adapter,tip-adapter-f,lp++"


AUTO = ":auto"  # after a method's name: what `anprompt fit` does without a recipe (`training.auto`)


def planned(args: argparse.Namespace, data: Any, backbone: Any, method: str, shots: int, seed: int) -> Job:
    """The job of one run: the preset's few-shot recipe, without validation images."""
    job = plan(data, backbone, method=method, shots=shots, seed=seed, recipe="few-shot", train={"view_seed": 1})
    return dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, val=()))


def trained(job: Job, bank: MemoryFeatureCache, auto: bool) -> tuple[Any, dict[str, Any]]:
    """The method, and what to write down of its training."""
    began, facts = time.perf_counter(), {}
    if auto:
        choice = choose(job, bank, fixed={})
        job, facts = choice.applied(job), {"chosen": choice.evidence}
        facts["choosing_seconds"] = round(time.perf_counter() - began, 2)
    tuned = run(job, bank=bank)
    return tuned.method, {"log": tuned.log.epochs[-1], "seconds": round(tuned.log.seconds, 2), **facts}


def tested(method: Any, data: Any, seen: dict[Any, Any]) -> tuple[float, int]:
    """Accuracy on the test images in percent, and how many there are; their states are shared by methods that may."""
    state = (method.first_block, method.reads)
    if state not in seen:
        views = make_views(method.backbone, data, data.test, probe="eval")
        seen[state] = image_states(method, views.eval_batch, torch.arange(len(views)), method.reads), views.labels
    states, labels = seen[state]
    answered = Classifier(method)
    rows = []
    for part in torch.arange(len(labels)).split(100):
        some = dataclasses.replace(states, trunk=states.trunk[part], frozen=states.frozen[part])
        rows.append(logits_of(method, some, answered.text, answered.head))
    right = torch.cat(rows).argmax(1) == labels
    return round(100 * float(right.float().mean()), 3), len(right)


def one(
    args: argparse.Namespace, data: Any, backbone: Any, key: dict[str, Any], bank: MemoryFeatureCache, seen: Any
) -> dict:
    """The row of one run."""
    name, auto = key["method"].removesuffix(AUTO), key["method"].endswith(AUTO)
    kind = get_method(get_preset(name).method)
    job = planned(args, data, backbone, name, key["shots"], key["seed"])
    method, facts = trained(job, bank, auto) if kind.trains else (job.create(), {"seconds": 0.0})
    if kind.from_features:
        facts["again"] = round(run(job, bank=bank).log.seconds, 2)
    accuracy, count = tested(method, data, seen)
    return {**key, "accuracy": accuracy, "tested": count, **facts}


def table(folder: Path) -> list[str]:
    """Markdown tables of all records in a folder: mean accuracy ± spread over seeds, and median seconds of learning."""
    lines: list[str] = []
    for file in sorted(folder.glob("*.json")):
        runs = json.loads(file.read_text())["runs"]
        shots = sorted({row["shots"] for row in runs})
        lines += ["", f"**{file.stem}** ({runs[0]['tested']} test images)", ""]
        lines += ["| method | " + " | ".join(f"{n}" for n in shots) + " | seconds, most shots |"]
        lines += ["|---|" + "--:|" * (len(shots) + 1)]
        for name in dict.fromkeys(row["method"] for row in runs):
            mine = [row for row in runs if row["method"] == name]
            cells = [cell([row["accuracy"] for row in mine if row["shots"] == n]) for n in shots]
            last = [row for row in mine if row["shots"] == max(row["shots"] for row in mine)]
            spent = [row.get("again", row["seconds"]) + row.get("choosing_seconds", 0) for row in last]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {statistics.median(spent):.1f} |")
    return lines


def cell(values: list[float]) -> str:
    """`83.0 ± 1.2`, with the number of seeds where it is not three; empty without any."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(set(values)) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" + (
        "" if len(values) == 3 else f" ({len(values)} seed{'s' if len(values) > 1 else ''})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="a data set, or with --table a folder of records")
    parser.add_argument("--table", action="store_true", help="print the tables of the records in a folder")
    parser.add_argument("--methods", default=FAST)
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.table:
        print("\n".join(table(Path(args.data))[1:]))
        return
    if args.out is None:
        parser.error("--out FILE.json is needed")
    out = Path(args.out)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["runs"] if out.exists() else []
    backbone = load_backbone(args.backbone)
    data = open_dataset(args.data)
    data = dataclasses.replace(data, read=functools.lru_cache(maxsize=20_000)(data.read))
    bank, seen = MemoryFeatureCache(1024), {}
    for shots in map(int, args.shots.split(",")):
        for seed in map(int, args.seeds.split(",")):
            for name in args.methods.split(","):
                key = {"method": name, "shots": shots, "seed": seed}
                if any(key.items() <= row.items() for row in rows):
                    continue
                rows.append(one(args, data, backbone, key, bank, seen))
                write_json(out, {"data": data.name, "backbone": backbone.weight_hash, "runs": rows})
                print(f"{data.name} {key} {rows[-1]['accuracy']:.1f}", flush=True)


if __name__ == "__main__":
    main()
