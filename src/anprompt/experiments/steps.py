"""The steps that protocols are made of: train on some classes, measure parts, describe the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from anprompt.adapters.adapter import holds_adapter, load_adapter, read_config, save_adapter
from anprompt.backbones import Backbone
from anprompt.data.splits import few_shot, subset_classes
from anprompt.data.types import Dataset
from anprompt.evaluation.conditions import Condition
from anprompt.evaluation.loaders import make_views
from anprompt.experiments.context import Lab
from anprompt.experiments.measurement import Measurement
from anprompt.experiments.protocols import Part, protocol
from anprompt.experiments.records import FORMAT, Record, data_hash, dataset_hash, now, spec_hash, versions
from anprompt.experiments.spec import Event, Observer, RunSpec, silent
from anprompt.methods import Method, build_method, preset
from anprompt.training.callbacks import Callback, Step
from anprompt.training.config import TrainConfig
from anprompt.training.loop import Run, TrainLog, fit, run_key
from anprompt.utils.machine import hardware, peak_memory_mb


def run_protocol(
    spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent
) -> Record:
    """One run, from its specification to its record.

    Args:
        state: folder that an interrupted run goes on from.

    Raises:
        UserError: the specification can't be run.
    """
    asked = protocol(spec.protocol)
    dataset, targets = lab.dataset(spec), {name: lab.dataset(spec, name) for name in spec.targets}
    parts = asked.parts(spec, dataset, targets)
    run = trained(spec, lab, asked.classes, state, observe)
    record = finish(spec, lab, run, parts, asked.metrics, state, observe)
    record["data"].update(asked.data_facts(dataset, targets, parts))
    return record


@dataclass(frozen=True)
class Trained:
    """A method after its training, or one that has nothing to train.

    Attributes:
        classes: all, or the half, that it was trained on; `train` holds the pictures drawn.
        config, log: recipe and course of the training; None and empty without one.
        skipped: one line per picture that could not be used.
    """

    method: Method
    backbone: Backbone
    dataset: Dataset
    classes: Dataset
    config: TrainConfig | None
    log: TrainLog
    skipped: tuple[str, ...]


def trained(spec: RunSpec, lab: Lab, classes: str, state: Path | None, observe: Observer) -> Trained:
    """Draw the pictures, build the method and train it on all classes, or on the base classes.

    The draw is made on the whole data set before it is halved, as the field does.
    """
    backbone, dataset = lab.backbone(spec), lab.dataset(spec)
    part = subset_classes(few_shot(dataset, spec.shots, spec.seed), classes)
    method = build_method(
        spec.method, backbone, part.classnames, template=dataset.template, settings=dict(spec.settings),
        descriptions=lab.descriptions(spec, dataset.classnames), seed=spec.seed, protocol=spec.recipe,
        dataset=dataset.name, shots=spec.shots or 0,
    )  # fmt: skip
    config, log, skipped = train(spec, method, part, lab, state, observe)
    return Trained(method, backbone, dataset, part, config, log, tuple(skipped))


class TrainingEvents(Callback):
    """Tells the observer of a sweep how far a training is."""

    def __init__(self, spec: RunSpec, observe: Observer) -> None:
        self.spec, self.observe = spec, observe

    def on_step_end(self, run: Run, step: Step) -> None:
        # reading a loss off its tensor waits for the device, so only now and then
        values = {k: float(v) for k, v in step.parts.items()} if step.number % 20 == 0 else {}
        self._tell("step", run, step.epoch, (step.number + 1) / step.count, values)

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        self._tell("epoch", run, epoch, 1.0, figures)

    def _tell(self, kind: str, run: Run, epoch: int, share: float, values: Mapping[str, float]) -> None:
        epochs = run.config.epochs
        self.observe(Event(self.spec, kind, (epoch + share) / epochs, f"epoch {epoch + 1}/{epochs}", values))


def train(
    spec: RunSpec, method: Method, base: Dataset, lab: Lab, state: Path | None, observe: Observer
) -> tuple[TrainConfig | None, TrainLog, list[str]]:
    """Fit the method, unless it has nothing to train or this very training is kept in the lab.

    Returns:
        Recipe, log, and a line for every file that was skipped.
    """
    if not method.trained_parameters():
        return None, TrainLog(), []
    recipe = preset(spec.method, spec.recipe, dataset=base.name, shots=spec.shots or 0)
    values = {**recipe.train, **dict(spec.train), "seed": spec.seed, "precision": spec.precision}
    config = cast(TrainConfig, TrainConfig.from_dict(values))
    views = make_views(method.backbone, base, base.train, config=config)
    views.fingerprint = data_hash(base.train) + told(method)
    kept = lab.adapters / f"{base.name}_{spec.method}_{run_key(method, config, views)[:16]}" if lab.adapters else None
    if kept and holds_adapter(kept):
        method.load_state_dict(load_adapter(kept, backbone=method.backbone).state_dict())
        train_log = TrainLog(**read_config(kept)["record"]["log"])
        method.eval()
        return config, train_log, list(views.skipped)

    told_to = [("events", TrainingEvents(spec, observe))]
    train_log = fit(method, views, config, state=state, callbacks=told_to, bank=lab.bank)
    if kept:
        save_adapter(kept, method, train=config, record={"log": dataclasses.asdict(train_log)})
    return config, train_log, list(views.skipped)


def told(method: Method) -> str:
    """A hash of the sentences a method was told about its classes; empty where it was told nothing."""
    if not method.descriptions:
        return ""
    return hashlib.sha256(json.dumps(method.descriptions, sort_keys=True).encode()).hexdigest()


Shape = Callable[[Mapping[str, Any]], dict[str, Any]]


def finish(
    spec: RunSpec, lab: Lab, run: Trained, parts: Mapping[str, Part], shape: Shape, state: Path | None,
    observe: Observer,
) -> Record:  # fmt: skip
    """Measure the parts, clean and under the run's conditions, and put the record together.

    Args:
        shape: from entries by part to what a record holds of them.
    """
    started = time.perf_counter()
    tests = Measurement(spec, lab, run.method, parts, state, observe)
    clean, disturbed = tests.run()
    metrics = shape(clean)
    metrics["conditions"] = {
        name: {**shape(entries), "seen_in_training": Condition.parse(name).seen_in_training}
        for name, entries in disturbed.items()
    }
    record = describe(
        spec, run.backbone, run.dataset, run.method, run.config, run.log, [*run.skipped, *tests.skipped]
    )
    record["data"]["train_pictures"] = len(run.classes.train)
    record["timings"]["eval_s"] = round(time.perf_counter() - started, 3)
    record["metrics"] = metrics
    return record


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
