"""Many runs, one after the other: what is finished is skipped, what was interrupted goes on."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anprompt.errors import UserError
from anprompt.experiments import Event, ExperimentContext, Observer, Pairs, RunSpec, run_protocol, silent
from anprompt.experiments.records import Record, dataset_hash, finished, record_name, save_record, spec_hash
from anprompt.methods import get_method, get_preset
from anprompt.prompting.compute import threads_for
from anprompt.utils.machine import reset_peak_memory
from anprompt.utils.storage import scratch

log = logging.getLogger("anprompt")

FINGERPRINT = 2  # which form of `Job.key` an unfinished state has; one of another form belongs to no run


def is_untrained(method: str) -> bool:
    """Whether a preset has nothing to train, so that seeds and settings change nothing."""
    return not get_method(get_preset(method).method).trains


def plan(
    datasets: Iterable[str], methods: Sequence[str], seeds: Sequence[int], *,
    overrides: Mapping[str, tuple[Pairs, Pairs]] | None = None, **common: Any,
) -> list[RunSpec]:  # fmt: skip
    """One run per data set, method and seed; a method with nothing to train is run with one seed only.

    Args:
        overrides: (settings, training settings) of a method that differ from its preset.
        common: what all runs share, as `RunSpec` takes it.
    """
    if not methods or not seeds:
        raise UserError("Give at least one method and one seed.")
    specs = []
    for dataset in datasets:
        for method in methods:
            settings, train = (overrides or {}).get(method, ((), ()))
            changed = {**common, "dataset": dataset, "method": method, "settings": settings, "train": train}
            for seed in seeds[:1] if is_untrained(method) else seeds:
                specs.append(RunSpec(**{**changed, "seed": seed}))
    return list(dict.fromkeys(specs))


def up_to_date(record: Record, spec: RunSpec, context: ExperimentContext) -> bool:
    """Whether a record was made with the very weights and data that are there now."""
    same_data = record["data"]["hash"] == dataset_hash(context.dataset(spec))
    for name in spec.targets:
        known = record["data"].get("targets", {}).get(name, {})
        same_data = same_data and known.get("hash") == dataset_hash(context.dataset(spec, name))
    return same_data and record["backbone"]["weight_hash"] == context.backbone(spec).weight_hash


def run_all(
    specs: Sequence[RunSpec],
    runs_dir: str | Path,
    *,
    context: ExperimentContext | None = None,
    observe: Observer = silent,
) -> list[Record]:
    """Run what is not there yet, one after the other, and return all records in the order of the specs.

    A finished record is taken as it is, if backbone and data are still the same. An interrupted run goes
    on from its last finished epoch.

    Args:
        runs_dir: folder of the records, or a URL.
    """
    context = context or ExperimentContext(adapters=scratch(runs_dir) / "adapters")
    records = []
    for spec in specs:
        record = finished(runs_dir, spec.identity())
        if record and up_to_date(record, spec, context):
            observe(Event(spec, "skip", 1.0, record=record))
        else:
            if record:
                log.info("%s: backbone or data have changed, running again", record_name(spec.identity()))
            observe(Event(spec, "start"))
            reset_peak_memory()
            with state_folder(runs_dir, spec, context) as state, threads_for(context.backbone(spec)):
                record = run_protocol(spec, context, state=state, observe=observe)
                save_record(runs_dir, record)
            observe(Event(spec, "done", 1.0, record=record))
        records.append(record)
    return records


@contextlib.contextmanager
def state_folder(runs_dir: str | Path, spec: RunSpec, context: ExperimentContext) -> Iterator[Path]:
    """A folder for the resumable state of a run on these weights and data; it goes when the run is done."""
    data = [dataset_hash(context.dataset(spec, name)) for name in (spec.dataset, *spec.targets)]
    identity = [spec.identity(), context.backbone(spec).weight_hash, *data]
    folder = scratch(runs_dir) / "unfinished" / spec_hash({"run": identity, "fingerprint": FINGERPRINT})[:16]
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # others may have unfinished runs there
        folder.parent.rmdir()
