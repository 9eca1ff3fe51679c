"""Where the runs of a sweep are executed: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anprompt.experiments.records import Record, finished, record_name
from anprompt.utils.locks import hold_runs
from anprompt.utils.storage import Place, scratch

if TYPE_CHECKING:
    from anprompt.experiments import Observer, RunSpec

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Who executes the runs of a sweep, and with what.

    Attributes:
        name: "local" for processes of this machine, "ray" for a Ray cluster.
        jobs: local: runs at a time; None for what the backbone and the device allow.
        bank: folder and gigabytes of a view bank that the runs share.
        address: ray: of the cluster; None for $RAY_ADDRESS, else this machine alone.
        cpus_per_run, gpus_per_run: ray: cores and GPUs of one run.
        memory_per_run: ray: gigabytes of one run; 0 declares none.
        run_timeout: ray: seconds that a run may take; None for no limit.
        retries: ray: attempts after a worker or node died.
    """

    name: str = "local"
    device: str = "cpu"
    jobs: int | None = None
    bank: tuple[str, float] | None = None
    address: str | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    memory_per_run: float = 0.0
    run_timeout: float | None = None
    retries: int = 3


def execute(engine: Engine, specs: Sequence[RunSpec], runs: Place, observe: Observer) -> list[Record]:
    """Run what is not there yet on an engine, and return all records in the order of the specifications.

    Raises:
        UserError: another sweep does one of the runs now, or whatever the engine says itself.
    """
    names = [record_name(spec.identity()) for spec in specs if not finished(runs, spec.identity())]
    with hold_runs(scratch(runs), names):
        return _execute(engine, specs, runs, observe)


def _execute(engine: Engine, specs: Sequence[RunSpec], runs: Place, observe: Observer) -> list[Record]:
    if engine.name == "local":
        from anprompt.experiments.runners.local import default_jobs, run_parallel
        from anprompt.training.feature_cache import DiskFeatureCache

        if engine.bank:
            DiskFeatureCache(*engine.bank)  # whether it can be made is said before anything is started
        jobs = engine.jobs or max((default_jobs(spec.backbone, engine.device) for spec in specs), default=1)
        return run_parallel(specs, runs, jobs=jobs, device=engine.device, bank=engine.bank, observe=observe)
    from anprompt.experiments.runners.ray import WorkerResources, run_ray

    needs = WorkerResources(engine.cpus_per_run, engine.gpus_per_run, int(engine.memory_per_run * 2**30))
    return run_ray(
        specs, runs, address=engine.address, needs=needs, device=engine.device, timeout=engine.run_timeout,
        retries=engine.retries, bank=engine.bank, observe=observe,
    )  # fmt: skip
