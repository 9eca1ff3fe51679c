"""The steps that protocols are made of: train, measure, describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from anprompt.backbones import Backbone
from anprompt.checkpoint import holds_adapter, load_adapter, read_config, save_adapter
from anprompt.conditions import Condition
from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.evaluate import evaluate
from anprompt.machine import hardware, peak_memory_mb
from anprompt.methods import Classifier, Method, preset
from anprompt.protocols.lab import Lab
from anprompt.protocols.spec import Event, Observer, RunSpec
from anprompt.results import FORMAT, Record, data_hash, dataset_hash, metrics_entry, now, spec_hash, versions
from anprompt.train import TrainConfig, TrainLog, fit, run_key
from anprompt.tuning import make_views


def train(
    spec: RunSpec, method: Method, base: Dataset, lab: Lab, state: Path | None, observe: Observer
) -> tuple[TrainConfig | None, TrainLog, list[str]]:
    """Fit the method, unless it has nothing to train or this very training is kept in the lab.

    Returns:
        Recipe, log, and a line for every file that was skipped.
    """
    if not method.trained_parameters():
        return None, TrainLog(), []
    recipe = preset(spec.method, spec.protocol, dataset=base.name, shots=spec.shots or 0)
    values = {**recipe.train, **dict(spec.train), "seed": spec.seed, "precision": spec.precision}
    config = cast(TrainConfig, TrainConfig.from_dict(values))
    views = make_views(method.backbone, base, base.train, config=config)
    views.fingerprint = data_hash(base.train)
    kept = lab.adapters / f"{base.name}_{spec.method}_{run_key(method, config, views)[:16]}" if lab.adapters else None
    if kept and holds_adapter(kept):
        method.load_state_dict(load_adapter(kept, backbone=method.backbone).state_dict())
        train_log = TrainLog(**read_config(kept)["record"]["log"])
        method.eval()
        return config, train_log, list(views.skipped)

    def on_step(epoch: int, step: int, steps: int, parts: Mapping[str, Any]) -> None:
        done = (epoch + (step + 1) / steps) / config.epochs
        # reading a loss off its tensor waits for the device, so only now and then
        values = {k: float(v.detach()) for k, v in parts.items()} if step % 20 == 0 else {}
        observe(Event(spec, "step", done, f"epoch {epoch + 1}/{config.epochs}", values))

    def on_epoch(epoch: int, means: Mapping[str, float]) -> None:
        observe(
            Event(spec, "epoch", (epoch + 1) / config.epochs, f"epoch {epoch + 1}/{config.epochs}", means)
        )

    train_log = fit(method, views, config, state=state, on_step=on_step, on_epoch=on_epoch)
    if kept:
        save_adapter(kept, method, train=config, record={"log": dataclasses.asdict(train_log)})
    return config, train_log, list(views.skipped)


def measure(
    method: Method, half: Dataset, which: str, condition: Condition | None, spec: RunSpec, lab: Lab
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Test accuracy on one half ("base" or "new"), and one line per file that could not be used."""
    if not half.test:
        raise UserError(f"{half.name} has no test pictures; give more pictures, or a test part.")
    names = half.classnames
    classifier = condition.classifier(method, names) if condition else Classifier(method, names)
    views = lab.test_views(spec, method.backbone, half, which, condition)
    metrics = evaluate(classifier, views, precision=spec.precision)
    entry = metrics_entry(metrics, [item.domain for item in views.items])
    return {**entry, "items_hash": data_hash(views.items)}, views.skipped


def describe(
    spec: RunSpec, backbone: Backbone, dataset: Dataset, method: Method, config: TrainConfig | None,
    train_log: TrainLog, skipped: Sequence[str],
) -> Record:  # fmt: skip
    """A record of everything but the metrics."""
    left_out = list(dict.fromkeys([*dataset.skipped, *skipped]))
    identity = spec.identity()
    return {
        "format": FORMAT,
        "spec": identity,
        "spec_hash": spec_hash(identity),
        "finished": now(),
        "method": {
            "preset": spec.method, "name": method.name, "paper": method.paper,
            "settings": method.config.to_dict(), "trained_parameters": method.trained_parameters(),
        },
        "train": config.to_dict() if config else None,
        "backbone": {
            "id": backbone.id, "weight_hash": backbone.weight_hash, **dataclasses.asdict(backbone.dims),
        },
        "data": {
            "name": dataset.name, "hash": dataset_hash(dataset), "template": dataset.template,
            "skipped": left_out[:100], "skipped_count": len(left_out),
        },
        "log": dataclasses.asdict(train_log),
        "timings": {
            "train_s": round(train_log.seconds, 3),
            "step_s": round(train_log.seconds / train_log.steps, 5) if train_log.steps else None,
        },
        "memory": {"peak_mb": round(peak_memory_mb(), 1)},
        "versions": versions(),
        "hardware": hardware(backbone.device),
    }  # fmt: skip
