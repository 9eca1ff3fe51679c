"""Choose ANPrompt's settings without looking at any test picture or new class.

Inside the base classes of each embedded set, the first half plays "base" and the second half plays "new".
Training uses the training pictures of one style, 16 a class; scores come from the training and validation
pictures of the other style, so that a style nobody trained on is part of the question as it is in the
test. What wins here becomes the preset; test pictures and the sets' new classes stay unread.

    python benchmarks/choose_settings.py --sets food,animals,transport,tools --out choices.json \
        "similarity_weight=0.5" "similarity_weight=2" "similarity_weight=8,noise_amount=0.5"
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from anprompt.backbones import Backbone, load_backbone
from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset
from anprompt.data.splits import few_shot, subset_classes
from anprompt.data.types import Dataset
from anprompt.data.views import Views
from anprompt.evaluation.evaluate import evaluate
from anprompt.evaluation.statistics import harmonic_mean
from anprompt.methods import Classifier, build_method, preset
from anprompt.training.loop import TrainConfig, fit
from anprompt.utils.files import write_json


def validation_halves(name: str, seed: int) -> tuple[Dataset, Dataset]:
    """The two halves of a set's base classes: one style's shots to train on, the other style's pictures to judge.

    Odd seeds train on the first style, even seeds on the second.
    """
    base = subset_classes(embedded_dataset(name), "base")
    styles = sorted({item.domain for item in base.train})
    own = styles[(seed + 1) % len(styles)]
    judged = tuple(item for item in (*base.train, *base.val) if item.domain != own)
    train = tuple(item for item in base.train if item.domain == own)
    drawn = few_shot(dataclasses.replace(base, train=train, val=(), test=judged), 16, seed)
    return subset_classes(drawn, "base"), subset_classes(drawn, "new")


def views(dataset: Dataset, items: tuple, backbone: Backbone, config: TrainConfig) -> Views:
    low, high = config.crop_scale
    return Views(
        items, dataset.read, image_size=backbone.dims.image_size, mean=backbone.mean, std=backbone.std,
        crop_scale=(low, high), flip=config.flip, seed=config.seed,
    )  # fmt: skip


def parse(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """ "a=1,b=2" -> (method settings, training settings)."""
    values = {}
    for pair in filter(None, text.split(",")):
        key, value = pair.split("=")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    return ({k: v for k, v in values.items() if k not in fields}, {k: v for k, v in values.items() if k in fields})


def score(name: str, seed: int, method_name: str, text: str, backbone: Backbone) -> dict[str, float]:
    """Validation accuracy in percent on pseudo-base and pseudo-new classes, and H."""
    base, new = validation_halves(name, seed)
    settings, train = parse(text)
    recipe = preset(method_name)
    config = TrainConfig.from_dict({**recipe.train, **train, "seed": seed})
    method = build_method(method_name, backbone, base.classnames, template=base.template, settings=settings, seed=seed)
    if method.trained_parameters():
        fit(method, views(base, base.train, backbone, config), config)  # type: ignore[arg-type]
    found = {
        part: 100 * evaluate(Classifier(method, half.classnames), views(half, half.test, backbone, config)).accuracy
        for part, half in (("base", base), ("new", new))
    }
    return {**found, "H": harmonic_mean(found["base"], found["new"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", default=[""], help='"key=value,key=value"; "" is the preset')
    parser.add_argument("--method", default="anprompt")
    parser.add_argument("--sets", default=",".join(EMBEDDED_SETS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone, rows = load_backbone("embedded"), []
    for text in args.candidates:
        started = time.perf_counter()
        cells = [
            score(name, int(seed), args.method, text, backbone)
            for name in args.sets.split(",") for seed in args.seeds.split(",")
        ]  # fmt: skip
        mean = {key: sum(cell[key] for cell in cells) / len(cells) for key in ("base", "new", "H")}
        rows.append({"settings": text, "cells": len(cells), **{k: round(v, 2) for k, v in mean.items()}})
        seconds = time.perf_counter() - started
        print(
            f"{text or '(preset)':60s} base {mean['base']:6.2f} new {mean['new']:6.2f} H {mean['H']:6.2f}  {seconds:.0f} s",
            flush=True,
        )
        if args.out:
            write_json(args.out, rows)


if __name__ == "__main__":
    main()
