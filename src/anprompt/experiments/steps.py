"""The steps that protocols are made of: train on some classes, measure parts, describe the run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from anprompt.adapters.adapter import holds_adapter, load_adapter, read_config, save_adapter
from anprompt.data.names import class_key
from anprompt.data.splits import with_classes
from anprompt.data.types import Dataset
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.attacked import without_seconds
from anprompt.experiments.context import ExperimentContext
from anprompt.experiments.measurement import Measurement
from anprompt.experiments.protocols import Part, protocol
from anprompt.experiments.records import Record, dataset_hash, now, spec_hash, versions
from anprompt.experiments.schema import FORMAT, BackboneFacts, DataFacts, LogFacts, SpecFacts
from anprompt.experiments.spec import Event, Observer, RunSpec, silent
from anprompt.training.callbacks import Callback, Step
from anprompt.training.job import Job, Tuned, run
from anprompt.training.loop import Run, TrainLog
from anprompt.utils.machine import hardware, peak_memory_mb


def run_protocol(
    spec: RunSpec, context: ExperimentContext, *, state: Path | None = None, observe: Observer = silent
) -> Record:
    """One run, from its specification to its record.

    Args:
        state: folder that an interrupted run goes on from.

    Raises:
        UserError: the specification can't be run.
    """
    asked = protocol(spec.protocol)
    dataset, targets = context.dataset(spec), {name: context.dataset(spec, name) for name in spec.targets}
    parts = asked.parts(spec, dataset, targets)
    job = context.job(spec)
    tuned = trained(spec, context, job, state, observe)
    record = finish(spec, context, job, tuned, testable(parts, spec, job), asked.metrics, state, observe)
    record["data"] = cast(DataFacts, {**record["data"], **asked.data_facts(dataset, targets, parts)})
    return record


def testable(parts: Mapping[str, Part], spec: RunSpec, job: Job) -> dict[str, Part]:
    """The parts without the classes that were to be trained and have no training images; `job` told them."""
    if not job.left_out:
        return dict(parts)
    out = {class_key(name) for name in job.left_out}

    def without(part: Part) -> Part:
        kept = [name for name in part.data.classnames if class_key(name) not in out]
        if part.source != spec.dataset or len(kept) == len(part.data.classnames):
            return part
        # another name, as what is kept of a part for other methods goes by it
        return dataclasses.replace(part, which=f"{part.which}, trained classes", data=with_classes(part.data, kept))

    return {name: without(part) for name, part in parts.items()}


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


def trained(spec: RunSpec, context: ExperimentContext, job: Job, state: Path | None, observe: Observer) -> Tuned:
    """Train as the job says, unless it has nothing to train or this very training is kept."""
    if not job.trains:
        return Tuned(job.create(), TrainLog(), ())
    kept = context.adapters / f"{job.dataset.name}_{job.method}_{job.key[:16]}" if context.adapters else None
    if kept and holds_adapter(kept):
        method = job.create()
        if job.train.visual_weight:
            method.add_visual_head()
        method.load_state_dict(load_adapter(kept, backbone=job.backbone).state_dict())
        method.eval()
        return Tuned(method, TrainLog(**read_config(kept)["record"]["log"]), job.training_views().skipped)
    events = [("events", TrainingEvents(spec, observe))]
    tuned = run(job, state=state, callbacks=events, bank=context.bank, validate=False)
    if kept:
        record = {"run": job.key, "log": dataclasses.asdict(tuned.log)}
        save_adapter(kept, tuned.method, train=job.train, record=record)
    return tuned


Shape = Callable[[Mapping[str, Any]], dict[str, Any]]


def finish(
    spec: RunSpec, context: ExperimentContext, job: Job, tuned: Tuned, parts: Mapping[str, Part], shape: Shape, state: Path | None,
    observe: Observer,
) -> Record:  # fmt: skip
    """Measure the parts, clean and under the run's conditions, and put the record together.

    Args:
        shape: from entries by part to what a record holds of them.
    """
    started = time.perf_counter()
    tests = Measurement(spec, context, tuned.method, parts, state, observe)
    clean, disturbed = tests.run()
    metrics = shape(clean)
    met = job.settings.noise_families() | (job.train.noise_families() if job.trains else frozenset())
    metrics["conditions"] = {
        name: {**shape(entries), "seen_in_training": Condition.parse(name).is_among(met)}
        for name, entries in disturbed.items()
    }
    attacks_s: dict[str, dict[str, float]] = {}
    if spec.attacks:
        under_attack, attacks_s = without_seconds(tests.under_attack())
        metrics["attacks"] = {name: shape(entries) for name, entries in under_attack.items()}
    record = describe(spec, context.dataset(spec), job, tuned, [*tuned.skipped, *tests.skipped])
    record["timings"]["eval_s"] = round(time.perf_counter() - started, 3)
    if attacks_s:
        record["timings"]["attacks_s"] = attacks_s
    record["metrics"] = metrics
    return record


def describe(spec: RunSpec, dataset: Dataset, job: Job, tuned: Tuned, skipped: Sequence[str]) -> Record:
    """A record of everything but the metrics."""
    left_out = list(dict.fromkeys([*dataset.skipped, *skipped]))
    identity, method, backbone, log = cast(SpecFacts, spec.identity()), tuned.method, job.backbone, tuned.log
    return {
        "format": FORMAT,
        "spec": identity,
        "spec_hash": spec_hash(identity),
        "finished": now(),
        "method": {
            "preset": spec.method, "name": method.name, "paper": method.paper,
            "settings": method.config.to_dict(), "trained_parameters": method.trained_parameters(),
            **({"new_classes": "zero-shot"} if method.from_features and method.by_class else {}),
        },
        "train": job.train.to_dict() if job.trains else None,
        "backbone": cast(BackboneFacts, {
            "id": backbone.id, "weight_hash": backbone.weight_hash, **dataclasses.asdict(backbone.dims),
        }),
        "data": {
            "name": dataset.name, "hash": dataset_hash(dataset), "template": dataset.template,
            "skipped": left_out[:100], "skipped_count": len(left_out), "train_pictures": len(job.dataset.train),
        },
        "log": cast(LogFacts, dataclasses.asdict(log)),
        "timings": {
            "train_s": round(log.seconds, 3), "step_s": round(log.seconds / log.steps, 5) if log.steps else None,
        },
        "memory": {"peak_mb": round(peak_memory_mb(), 1)},
        "versions": versions(),
        "hardware": hardware(backbone.device),
    }  # fmt: skip
