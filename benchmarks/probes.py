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
from anprompt.training.feature_cache import MemoryFeatureCache
from anprompt.training.job import Job, plan, run
from anprompt.utils.files import write_json

FAST = "zeroshot,linear-probe,ncm,tip-adapter,tip-adapter-f,lp++"


def planned(args: argparse.Namespace, data: Any, backbone: Any, method: str, shots: int, seed: int) -> Job:
    """The job of one run: the preset's few-shot recipe, without validation images."""
    recipe = get_preset(method, "few-shot", shots=shots)
    job = plan(
        data, backbone, method=method, shots=shots, seed=seed, settings=recipe.settings,
        train={**recipe.train, "view_seed": 1},
    )  # fmt: skip
    return dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, val=()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data")
    parser.add_argument("--methods", default=FAST)
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
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
                started = time.perf_counter()
                kind = get_method(get_preset(name).method)
                if kind.trains:
                    tuned = run(planned(args, data, backbone, name, shots, seed), bank=bank)
                    method, facts = tuned.method, {"log": tuned.log.epochs[-1], "seconds": round(tuned.log.seconds, 2)}
                else:
                    job = planned(args, data, backbone, "linear-probe", shots, seed)
                    from anprompt.methods import create_method

                    method = create_method(name, backbone, job.dataset.classnames, template=job.template)
                    facts = {"seconds": 0.0}
                if kind.from_features:
                    facts["again"] = round(
                        run(planned(args, data, backbone, name, shots, seed), bank=bank).log.seconds, 2
                    )
                state = (method.first_block, method.reads)
                if state not in seen:
                    views = make_views(backbone, data, data.test, probe="eval")
                    seen[state] = (
                        image_states(method, views.eval_batch, torch.arange(len(views)), method.reads),
                        views.labels,
                    )
                answered = Classifier(method)
                z = torch.cat([
                    logits_of(method, dataclasses.replace(seen[state][0], **{
                        k: getattr(seen[state][0], k)[part] for k in ("trunk", "frozen")
                    }), answered.text, answered.head)
                    for part in torch.arange(len(seen[state][1])).split(100)
                ])  # fmt: skip
                right = z.argmax(1) == seen[state][1]
                rows.append(
                    {**key, "accuracy": round(100 * float(right.float().mean()), 3), "tested": len(right), **facts}
                )
                write_json(out, {"data": args.data, "backbone": backbone.weight_hash, "runs": rows})
                print(f"{data.name} {key} {rows[-1]['accuracy']:.1f} {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
