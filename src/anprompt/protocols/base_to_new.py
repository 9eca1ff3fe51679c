"""Base to new: train on half of the classes, test on both halves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from anprompt.conditions import Condition
from anprompt.data.splits import few_shot, subset_classes
from anprompt.evaluate import harmonic_mean
from anprompt.methods import build_method
from anprompt.protocols.lab import Lab
from anprompt.protocols.parts import describe, measure, train
from anprompt.protocols.spec import Event, Observer, RunSpec, silent
from anprompt.results import Record


def base_to_new(spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent) -> Record:
    """Train on the first half of the classes, test on that half and on the other, which no one trained on.

    The draw is made on the whole data set before it is halved, as the field does. Base pictures are told
    apart among base classes with the trained head, new pictures among new classes with the unseen head.

    Args:
        state: folder that an interrupted training goes on from.
    """
    backbone, dataset = lab.backbone(spec), lab.dataset(spec)
    drawn = few_shot(dataset, spec.shots, spec.seed)
    base, new = subset_classes(drawn, "base"), subset_classes(drawn, "new")
    method = build_method(
        spec.method, backbone, base.classnames, template=dataset.template, settings=dict(spec.settings),
        descriptions=lab.descriptions(spec, dataset.classnames), seed=spec.seed, protocol=spec.protocol,
        dataset=dataset.name, shots=spec.shots or 0,
    )  # fmt: skip
    config, train_log, skipped = train(spec, method, base, lab, state, observe)
    started = time.perf_counter()
    metrics: dict[str, Any] = {"conditions": {}}
    for number, condition in enumerate([None, *map(Condition.parse, spec.conditions)]):
        done = number / (1 + len(spec.conditions))
        observe(Event(spec, "evaluate", done, condition.title if condition else "clean"))
        found: dict[str, Any] = {}
        for which, half in (("base", base), ("new", new)):
            found[which], left_out = measure(method, half, which, condition, spec, lab)
            skipped += left_out
        found["H"] = harmonic_mean(found["base"]["accuracy"], found["new"]["accuracy"])
        if condition is None:
            metrics.update(found)
        else:
            metrics["conditions"][str(condition)] = {**found, "seen_in_training": condition.seen_in_training}
    seconds = time.perf_counter() - started
    record = describe(spec, backbone, dataset, method, config, train_log, skipped)
    record["data"]["classes"] = {"base": len(base.classnames), "new": len(new.classnames)}
    record["data"]["train_pictures"] = len(base.train)
    record["timings"]["eval_s"] = round(seconds, 3)
    record["metrics"] = metrics
    return record
