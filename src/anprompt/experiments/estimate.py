"""What a sweep will take: from records of such runs where there are some, else from a few steps measured here."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.attacks.threat import ThreatModel
from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.evaluation.evaluate import evaluate
from anprompt.evaluation.loaders import make_views
from anprompt.evaluation.wording import Wording, with_sentences
from anprompt.experiments import ExperimentContext, RunSpec
from anprompt.experiments.measurement import MOST_CLASSES
from anprompt.experiments.protocols import protocol
from anprompt.experiments.records import Record, finished, read_records
from anprompt.methods import Method
from anprompt.prompting.compute import threads_for
from anprompt.training.forecast import step_times
from anprompt.training.job import Job
from anprompt.training.loop import epoch_order, trial_steps
from anprompt.utils.machine import peak_memory_mb, reset_peak_memory

STEPS, PICTURES, SECONDS = 3, 40, 0.5  # of a measurement: at least so many steps, and for so long


@dataclass(frozen=True)
class Pace:
    """How quick a method is on this machine, and how large.

    Attributes:
        step_s: seconds of a training step; 0 where nothing is trained.
        picture_s: seconds of testing one picture once.
        memory_mb: largest resident size of the process.
        records: number of runs it is from; 0 for one measured now.
    """

    step_s: float
    picture_s: float
    memory_mb: float
    records: int


@dataclass(frozen=True)
class Estimate:
    """One run of a sweep: whether it is done, and what it takes if not."""

    spec: RunSpec
    done: bool
    seconds: float
    pace: Pace | None


def estimate(specs: Sequence[RunSpec], runs: str | Path, context: ExperimentContext) -> list[Estimate]:
    """An estimate for each run; every (protocol, method, settings) that no record tells of is measured once."""
    records = _records(runs)
    paces: dict[tuple[Any, ...], Pace] = {}
    found = []
    for spec in specs:
        if finished(runs, spec.identity()):
            found.append(Estimate(spec, True, 0.0, None))
            continue
        key = _kind(spec)
        if key not in paces:
            paces[key] = from_records(spec, records) or measured(spec, context)
        found.append(Estimate(spec, False, seconds(spec, paces[key], context), paces[key]))
    return found


def seconds(spec: RunSpec, pace: Pace, context: ExperimentContext) -> float:
    """Time of one run: its training steps, and its test pictures once for each time they are looked at."""
    tested, classes = _tested(spec, context)
    pictures = tested * looks(spec.conditions, classes, spec.attacks)
    return _steps(spec, context) * pace.step_s + pictures * pace.picture_s


def looks(conditions: Sequence[str], classes: int, attacks: Sequence[str] = ()) -> int:
    """How often the test pictures pass: clean, under each picture noise, for the words all at once, and in attacks.

    Attacks leave lost images alone, so what they take is at most that.
    """
    parsed = [Condition.parse(text) for text in conditions]
    words = sum(condition.kind != "image" for condition in parsed)
    attacked = sum(ThreatModel.parse(text).passes(classes) for text in attacks)
    return 1 + len(parsed) - words + -(-words * classes // MOST_CLASSES) + attacked


# --- from records ---------------------------------------------------------------------------------
def _records(runs: str | Path) -> list[Record]:
    try:
        return read_records(runs)
    except UserError:  # no folder yet, or nothing in it
        return []


def _kind(spec: RunSpec) -> tuple[Any, ...]:
    """What makes runs alike in pace."""
    return spec.recipe, spec.method, spec.backbone, spec.precision, spec.settings, spec.train


def from_records(spec: RunSpec, records: Sequence[Record]) -> Pace | None:
    """The median pace of records with the same recipe, method, backbone and settings."""
    identity = spec.identity()
    keys = ("protocol", "method", "backbone", "precision", "settings", "train")
    alike = [r for r in records if all(r["spec"].get(key) == identity[key] for key in keys)]
    if not alike:
        return None
    steps = [r["timings"]["step_s"] or 0.0 for r in alike]
    per_picture = [r["timings"]["eval_s"] / _looked(r) for r in alike]
    memory = max(r["memory"]["peak_mb"] for r in alike)
    return Pace(statistics.median(steps), statistics.median(per_picture), memory, len(alike))


def _looked(record: Record) -> int:
    """Pictures that a run looked at, each as often as it did."""
    metrics = record["metrics"]
    entries = [v for k, v in metrics.items() if k in ("base", "new", "all", "source")]
    entries += list(metrics.get("targets", {}).values())
    classes = max(len(entry["per_class"]) for entry in entries)
    return sum(entry["pictures"] for entry in entries) * looks(
        record["spec"]["conditions"], classes, record["spec"].get("attacks", ())
    )


# --- measured here --------------------------------------------------------------------------------
def _steps(spec: RunSpec, context: ExperimentContext) -> int:
    job = context.job(spec)
    if not job.trains:
        return 0
    return job.train.epochs * len(epoch_order(len(job.dataset.train), job.train.batch_size, 0, 0))


def _tested(spec: RunSpec, context: ExperimentContext) -> tuple[int, int]:
    """Test pictures of all parts of a run, and the most classes in one of them."""
    sets = [context.dataset(spec), *(context.dataset(spec, name) for name in spec.targets)]
    targets = dict(zip(spec.targets, sets[1:]))
    parts = protocol(spec.protocol).parts(spec, sets[0], targets).values()
    return sum(len(part.data.test) for part in parts), max(len(part.data.classnames) for part in parts)


def measured(spec: RunSpec, context: ExperimentContext) -> Pace:
    """Build the method, run a few steps and a few test pictures, forget it; a few seconds."""
    job = context.job(spec)
    backbone, data = job.backbone, job.dataset
    reset_peak_memory()
    with threads_for(backbone):
        method = job.create()
        step_s = _step_seconds(job, method) if job.trains else 0.0
        words = Wording.clean(data.classnames, data.template, job.descriptions)
        classifier, _ = with_sentences(method, [words])
        views = make_views(backbone, data, data.test[:PICTURES], probe="eval")
        started = time.perf_counter()
        evaluate(classifier, views, precision=spec.precision)
        picture_s = (time.perf_counter() - started) / len(views)
    return Pace(step_s, picture_s, peak_memory_mb(), 0)


def _step_seconds(job: Job, method: Method[Any]) -> float:
    """Mean of a few steps of such a run, after two to warm up."""
    some = job.dataset.train[: STEPS * job.train.batch_size]
    views = make_views(job.backbone, job.dataset, some, config=job.train)
    steps = trial_steps(method, views, dataclasses.replace(job.train, epochs=max(job.train.epochs, STEPS)))
    return statistics.fmean(step_times(steps, seconds=SECONDS, least=STEPS)[1:])
