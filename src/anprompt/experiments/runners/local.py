"""Runs of a sweep side by side, each in a process with one thread: what many cores are good for with small models."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from anprompt.backbones.devices import resolve_device
from anprompt.errors import UserError
from anprompt.experiments import Event, ExperimentContext, Observer, RunSpec, silent
from anprompt.experiments.cache import default_budget
from anprompt.experiments.records import Record
from anprompt.experiments.sweep import run_all
from anprompt.utils.machine import hardware
from anprompt.utils.storage import scratch

PAUSE = 0.2  # seconds between two looks at the events, and between two step events of a run
MOST = 8


def default_jobs(backbone: str, device: str = "cpu") -> int:
    """As many runs at once as there are cores where the model is the small one; else one, with all cores."""
    where = resolve_device(device).type if device == "auto" else device
    return min(MOST, hardware()["cores"]) if backbone == "embedded" and where == "cpu" else 1


def run_parallel(
    specs: Sequence[RunSpec],
    runs_dir: str | Path,
    *,
    jobs: int,
    device: str = "cpu",
    bank: tuple[str, float] | None = None,
    observe: Observer = silent,
) -> list[Record]:
    """`run_all` with `jobs` runs at a time; the records are the same, in the order of the specs.

    Args:
        bank: folder and gigabytes of a view bank; see `ExperimentContext`.
    """
    jobs = min(jobs, len(specs))
    if jobs <= 1:
        context = ExperimentContext(device, scratch(runs_dir) / "adapters", bank=bank)
        return run_all(specs, runs_dir, context=context, observe=observe)
    spawn = multiprocessing.get_context("spawn")  # a forked torch can hang
    events: Any = spawn.Queue()
    pool = ProcessPoolExecutor(jobs, spawn, _start, (events, device, str(runs_dir), os.getpid(), jobs, bank))
    try:
        futures = [pool.submit(_work, group, str(runs_dir)) for group in grouped(specs, jobs)]
        _relay(events, futures, observe)
        done = {spec: record for future in futures for spec, record in future.result()}
        return [done[spec] for spec in specs]
    except BrokenProcessPool:
        raise UserError(
            "A run's process was ended from outside, perhaps for want of memory. Start again, with fewer --jobs; "
            "what is finished is kept."
        ) from None
    except BaseException:  # Ctrl-C or a failed run: stop the others; their finished epochs are on disk
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def grouped(specs: Sequence[RunSpec], jobs: int) -> list[list[RunSpec]]:
    """Runs that one process should do: each by itself; under conditions all of a data set, if there are enough sets.

    With many conditions most of the time goes into disturbed pictures and what the frozen encoder says of them,
    which methods share within a process.
    """
    found: dict[Any, list[RunSpec]] = {}
    for spec in specs:
        found.setdefault((spec.dataset, spec.root, spec.targets) if spec.conditions else spec, []).append(spec)
    return list(found.values()) if len(found) >= jobs else [[spec] for spec in specs]


def _relay(events: Any, futures: Sequence[Future[Any]], observe: Observer) -> None:
    """Hand events on until every run is done, or one has failed."""
    while True:
        over = all(future.done() for future in futures)
        try:
            while True:
                observe(events.get(timeout=PAUSE))
        except queue.Empty:
            pass
        for future in futures:
            if future.done() and future.exception():
                raise future.exception()  # type: ignore[misc]
        if over:
            return


# --- in the worker process ------------------------------------------------------------------------
_here: dict[str, Any] = {}


def _start(events: Any, device: str, runs_dir: str, parent: int, jobs: int, bank: tuple[str, float] | None) -> None:
    import torch

    torch.set_num_threads(1)
    context = ExperimentContext(device, scratch(runs_dir) / "adapters", default_budget(jobs), bank)
    _here.update(events=events, context=context, last=0.0)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the sweep's is gone: going on unseen would surprise, and waiting for work that
    never comes would go on for ever."""
    while os.getppid() == parent:
        time.sleep(PAUSE)
    os._exit(1)


def _work(specs: Sequence[RunSpec], runs_dir: str) -> list[tuple[RunSpec, Record]]:
    return list(zip(specs, run_all(specs, runs_dir, context=_here["context"], observe=_tell)))


def _tell(event: Event) -> None:
    if event.kind == "step":
        if time.monotonic() - _here["last"] < PAUSE:
            return
        _here["last"] = time.monotonic()
    _here["events"].put(event)
