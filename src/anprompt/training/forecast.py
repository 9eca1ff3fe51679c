"""What a tuning run will take, from a few steps of the very run: `anprompt fit --dry-run`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anprompt.data.views import Views
from anprompt.evaluation.evaluate import evaluate
from anprompt.evaluation.loaders import make_views
from anprompt.methods import Classifier, Method
from anprompt.prompting.compute import threads_for
from anprompt.training.config import TrainConfig
from anprompt.training.feature_cache import FeatureCache
from anprompt.training.feature_fit import look_count, trial_looks
from anprompt.training.frozen_features import FrozenFeatures
from anprompt.training.job import Job
from anprompt.training.loop import epoch_order, trial_steps
from anprompt.utils.machine import peak_memory_mb

Clock = Callable[[], float]
MEASURE_S = 4.0  # of steps, after the first two
LEAST_STEPS = 4
PICTURES = 200  # of an evaluation, at most


@dataclass(frozen=True)
class Forecast:
    """Seconds and megabytes of a run.

    Attributes:
        start_s: from the start of the process to the first step: imports, backbone, pictures, method.
        first_s: the first step, which also computes what a method keeps from then on.
        step_s: a later step where the encoder looks at the views, or `cached_s` where the bank has them.
        steps, cached: all steps, and how many of them find their views in the bank.
        val_s, test_s: one validation, and the test.
        epochs: number of epochs, each with a validation.
        memory_mb: largest resident size; with an accelerator `device_mb` is what torch reserves there.
    """

    start_s: float
    first_s: float
    step_s: float
    cached_s: float
    steps: int
    cached: int
    val_s: float
    test_s: float
    epochs: int
    memory_mb: float
    device_mb: float = 0.0

    @property
    def train_s(self) -> float:
        """Seconds of all steps."""
        later = max(self.steps - 1, 0)
        cached = min(self.cached, later)
        return self.first_s + (later - cached) * self.step_s + cached * self.cached_s

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.start_s + self.train_s + self.epochs * self.val_s + self.test_s

    def facts(self) -> dict[str, float]:
        """Everything, for JSON."""
        return {**asdict(self), "train_s": self.train_s, "seconds": self.seconds}


def forecast(job: Job, bank: FeatureCache | None = None, clock: Clock = time.perf_counter) -> Forecast:
    """Build the run, do some of its steps and evaluations, and forget it. Takes some seconds; writes nothing.

    Raises:
        UserError: whatever would stop the run itself.
    """
    began = clock()
    config = job.train
    with threads_for(job.backbone):
        method, views = job.create(), job.training_views()
        looks_only = method.from_features
        steps: Iterable[object] = (
            trial_looks(method, views, config) if looks_only else trial_steps(method, views, config)
        )
        started = process_age() + clock() - began
        times = step_times(steps, clock)
        cached_s, cached = _cached(method, views, config, None if looks_only else bank, times[1:], clock)
        val_s, val_mb = _evaluation(job, method, "val", clock)
        test_s, test_mb = _evaluation(job, method, "test", clock)
    epochs, epoch = config.epochs, len(epoch_order(len(views), config.batch_size, 0, 0))
    if looks_only:  # what it learns from the features takes seconds, which are not counted
        epochs, epoch = 1, look_count(views, config)
    return Forecast(
        start_s=started, first_s=times[0], step_s=_mean(times[1:]), cached_s=cached_s,
        steps=epochs * epoch, cached=cached, val_s=val_s, test_s=test_s, epochs=epochs,
        memory_mb=peak_memory_mb() + val_mb + test_mb, device_mb=_device_mb(job.backbone.device),
    )  # fmt: skip


def step_times(
    steps: Iterable[object], clock: Clock = time.perf_counter, seconds: float = MEASURE_S, least: int = LEAST_STEPS
) -> list[float]:
    """How long steps take: the first one, and some later ones (the second, still warming up, is left out).

    Args:
        steps: does a step whenever one is asked for, as `training.loop.trial_steps` does; there is one at least.
        clock: gives seconds.
        seconds, least: later steps are done for so many seconds, and at least so many, if there are so many.

    Returns:
        Seconds of the first step, then of each later one.
    """
    times: list[float] = []
    before = clock()
    for _ in steps:
        now = clock()
        times.append(now - before)
        if len(times) >= 2 + least and sum(times[2:]) >= seconds:
            break
        before = clock()
    return [times[0], *(times[2:] or times[1:])]


def _cached(
    method: Method, views: Views, config: TrainConfig, bank: FeatureCache | None, times: list[float], clock: Clock
) -> tuple[float, int]:
    """Seconds of a step whose views are in the bank, and how many steps have theirs there."""
    if bank is None:
        return _mean(times), 0
    looks = FrozenFeatures(method, views, config.precision, config.trunk_precision, bank, config.image_noise_target)
    batch = epoch_order(len(views), config.batch_size, config.seed, 0)[0]
    before = clock()
    for _ in range(3):
        looks.compute(views.train_batch(batch, 0))
    look_s = (clock() - before) / 3
    rows = looks.rows
    assert rows is not None
    have: set[bytes] = set()  # by an earlier run, or an earlier epoch of this one
    cached = 0
    for epoch in range(config.epochs):
        for indices in epoch_order(len(views), config.batch_size, config.seed, epoch):
            keys = views.view_keys(indices, epoch)
            cached += all(key in have or rows.has(key) for key in keys)
            have.update(keys)
    return max(_mean(times) - look_s, 0.0), cached


def _evaluation(job: Job, method: Any, part: str, clock: Clock) -> tuple[float, float]:
    """Seconds of one evaluation of a part, and the megabytes its pictures will take beyond those seen here."""
    items = getattr(job.dataset, part)
    if not items:
        return 0.0, 0.0
    some = items[:: max(1, len(items) // PICTURES)][:PICTURES]  # from everywhere: sizes differ
    before = clock()
    classifier = Classifier(method)
    encoded = clock()
    views = make_views(job.backbone, job.dataset, some, probe="eval")
    read = clock()
    evaluate(classifier, views, precision=job.train.precision)
    done = clock()
    share = len(items) / len(some)
    once = (read - encoded) * share  # validation pictures are read once, at the start
    looked = encoded - before + (done - read) * share
    size = 3 * job.backbone.dims.image_size**2 * (len(items) - len(some)) / 2**20
    kept = min(size, 512.0)
    return looked + (once / job.train.epochs if part == "val" else once), kept


def process_age() -> float:
    """Seconds since this process was started (Linux; elsewhere since it began to use the processor)."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return uptime - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.process_time()


def _mean(times: list[float]) -> float:
    return sum(times) / len(times) if times else 0.0


def _device_mb(device: torch.device) -> float:
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else 0.0


def in_words(found: Forecast, config: TrainConfig) -> list[str]:
    """Lines for people."""
    parts = [f"start {duration(found.start_s)}"]
    where = f"{found.steps:,} steps of {1e3 * found.step_s:,.0f} ms"
    if found.cached:
        where += f" ({found.cached:,} of them from the view bank, {1e3 * found.cached_s:,.0f} ms)"
    parts.append(f"{where} = {duration(found.train_s)}")
    if found.val_s:
        parts.append(f"{config.epochs} validations {duration(found.epochs * found.val_s)}")
    if found.test_s:
        parts.append(f"test {duration(found.test_s)}")
    memory = f"memory: about {found.memory_mb:,.0f} MB"
    if found.device_mb:
        memory += f", and {found.device_mb:,.0f} MB on the accelerator"
    return [f"time: about {duration(found.seconds)} ({', '.join(parts)})", memory]


def duration(seconds: float) -> str:
    """0.4 -> "0.4 s", 75 -> "1 min 15 s", 7000 -> "1 h 57 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{round(whole / 60) // 60} h {round(whole / 60) % 60} min"
