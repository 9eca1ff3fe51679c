"""Runs of a sweep as tasks of a Ray cluster: Ray places, retries and ends them; the records say what is done.

Every task is `run_all` on one specification, so a record that is there is taken as it is, whoever wrote it: a
worker that died after writing, a driver that was killed, a sweep on one machine. Ray sends specifications and
progress between its own processes; results go through the records alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt._version import __version__
from anprompt.errors import UserError
from anprompt.experiments import Event, ExperimentContext, Observer, RunSpec, silent
from anprompt.experiments.cache import default_budget
from anprompt.experiments.records import Record, finished
from anprompt.experiments.sweep import run_all
from anprompt.utils.files import first_line
from anprompt.utils.machine import hardware
from anprompt.utils.storage import Place, is_url, scratch

log = logging.getLogger("anprompt")

PAUSE = 0.2  # seconds between two looks at what is done
TOLD = 0.5  # seconds between two step events of a run
PATIENCE = 5.0  # seconds for a cluster to answer, and for a record to become visible on a shared folder


@dataclass(frozen=True)
class WorkerResources:
    """What one run needs of a node.

    Attributes:
        cpus, gpus: may be parts of one; memory: bytes, 0 declares none.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU", f"{self.gpus:g} GPU" if self.gpus else ""]
        parts.append(f"{self.memory / 2**30:.3g} GB" if self.memory else "")
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told besides the specification."""

    runs: Place
    device: str
    cpus: float
    folder: str
    bank: tuple[str, float] | None = None
    version: str = __version__


def run_ray(
    specs: Sequence[RunSpec],
    runs: Place,
    *,
    address: str | None = None,
    needs: WorkerResources | None = None,
    device: str = "cpu",
    timeout: float | None = None,
    retries: int = 3,
    bank: tuple[str, float] | None = None,
    observe: Observer = silent,
) -> list[Record]:
    """`run_all` on a Ray cluster; the records are the same, in the order of the specs.

    A run that fails leaves the others alone; at the end an error says which failed.

    Args:
        runs: a folder that all nodes share, or a URL.
        address: host:port, ray://host:port or auto; None takes $RAY_ADDRESS, else a cluster of this machine
            that lasts as long as the sweep. A connection that the caller has made is used as it is.
        timeout: seconds of one attempt at a run, from its start; None waits for ever.
        retries: attempts after a worker or its node has died.
        bank: folder and gigabytes of a view bank, which the runs of a node share.

    Raises:
        UserError: no Ray, no cluster at the address, no node large enough, or runs that failed.
    """
    needs = needs or WorkerResources(gpus=float(device.startswith("cuda")))
    runs = str(runs) if is_url(runs) else str(Path(runs).absolute())
    with connected(address) as (ray, ours):
        check_room(ray, needs, ours)
        sweep = Sweep(ray, runs, timeout, observe)
        try:
            order = WorkerConfig(runs, device, needs.cpus, os.getcwd(), bank)
            sweep.submit(list(dict.fromkeys(specs)), order, needs, retries)
            sweep.wait()
        finally:  # also on Ctrl-C: what is finished is kept, finished epochs as well
            sweep.cancel()
    if sweep.failed:
        spec, reason = next(iter(sweep.failed.items()))
        raise UserError(
            f"{len(sweep.failed)} of {len(sweep.records) + len(sweep.failed)} runs failed, first {named(spec)}: {reason} "
            f"The others are in {runs}; start again to try only what failed."
        )
    return [sweep.records[spec] for spec in specs]


def named(spec: RunSpec) -> str:
    """A run for people, in a few words."""
    return f"{spec.dataset} {spec.method} seed {spec.seed}"


# --- the cluster ----------------------------------------------------------------------------------
def import_ray() -> Any:
    """The package, where it is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine ray needs the package ray: pip install 'anprompt[ray]'. The local engine needs nothing more."
        ) from None
    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[tuple[Any, bool]]:
    """Ray with a connection, and whether the cluster is one of this machine made for this sweep."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: nothing is reported anywhere
    ray = import_ray()
    if ray.is_initialized():
        yield ray, False
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    check_address(where)
    options = {"include_dashboard": False} if where == "local" else {}
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # a busy machine is slow to start, not broken
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises what its layers raise: connection, version, value, runtime
        raise UserError(f"No Ray cluster to work with at {where!r}: {_line(error)}.") from error
    try:
        yield ray, where == "local"
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Whether something listens there, before Ray tries for a minute.

    Raises:
        UserError: it is not an address, or nothing answers.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise UserError(f"--address {address!r} must be host:port, ray://host:port or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"No Ray cluster answers at {address!r} ({error.strerror or error}); 'ray start --head' starts one."
        ) from None


def check_room(ray: Any, needs: WorkerResources, ours: bool) -> None:
    """Whether some node is large enough; a cluster that grows may get one, this machine will not.

    Raises:
        UserError: the cluster is this machine alone, and too small.
    """
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(key, 0) >= value for key, value in asked.items()) for node in nodes):
        return
    if ours:
        raise UserError(
            f"A run needs {needs}, which this machine does not have; ask for less with --cpus-per-run and the like."
        )
    log.warning("No node of the cluster has %s now; waiting for one", needs)


# --- the driver -----------------------------------------------------------------------------------
class EventQueue:
    """An actor beside the driver: workers tell it what happens, the driver takes what it has not seen."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        taken, self.events = self.events, []
        return taken


class Sweep:
    """Runs under way on a cluster.

    Attributes:
        records: of the runs that are done.
        failed: one line for each run that gave no record.
    """

    def __init__(self, ray: Any, runs: Place, timeout: float | None, observe: Observer) -> None:
        self.ray, self.runs, self.timeout, self.observe = ray, runs, timeout, observe
        self.records: dict[RunSpec, Record] = {}
        self.failed: dict[RunSpec, str] = {}
        self._running: dict[Any, RunSpec] = {}
        self._since: dict[RunSpec, float] = {}
        self._late: set[RunSpec] = set()
        self._channel: Any = None
        self._news: Any = None  # what the channel was asked for and has not answered yet

    def submit(self, specs: Sequence[RunSpec], order: WorkerConfig, needs: WorkerResources, retries: int) -> None:
        """Hand all runs to Ray, which starts them as nodes have room."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        beside = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
        actor = self.ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=beside)(EventQueue)
        self._channel = actor.remote()
        # max_calls=0: a process with a GPU would else end after each run, and load the backbone for each
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_calls": 0}
        if needs.memory:
            options["memory"] = needs.memory
        task = self.ray.remote(max_retries=retries, retry_exceptions=False, **options)(work)
        self._running = {task.remote(spec, order, self._channel): spec for spec in specs}

    def wait(self) -> None:
        """Until every run is done or has failed."""
        while self._running:
            waiting = list(self._running)
            ready, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=PAUSE)
            self._relay()
            for reference in ready:
                self._settle(reference, self._running.pop(reference))
            self._end_late()

    def cancel(self) -> None:
        """End what still runs, and take no more news."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            for reference in self._running:
                self.ray.cancel(reference, force=True)
            self.ray.kill(self._channel)
        self._running = {}

    def _relay(self) -> None:
        """Hand on what workers told; progress is worth no failure."""
        self._news = self._news or self._channel.take.remote()
        try:
            events = self.ray.get(self._news, timeout=PATIENCE)
        except self.ray.exceptions.GetTimeoutError:  # it starts, or is busy; its answer will be the same
            return
        except self.ray.exceptions.RayError as error:
            log.debug("no news from the workers: %s", _line(error))
            self._news = None
            return
        self._news = None
        running = set(self._running.values())
        for event in events:
            if event.kind == "start":
                self._since[event.spec] = time.monotonic()
            if event.spec in running:  # a step told late must not cover the end of its run
                self.observe(event)

    def _settle(self, reference: Any, spec: RunSpec) -> None:
        """Read the record of a run that has ended, or note why there is none."""
        try:
            kind, node = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self._fail(spec, self._reason(spec, error))
            return
        record = self._read(spec)
        if record is None:
            self._fail(spec, f"its record is not in {self.runs}, where {node} wrote it; all nodes must share that.")
            return
        self.records[spec] = record
        self.observe(Event(spec, kind, 1.0, record=record))

    def _read(self, spec: RunSpec) -> Record | None:
        """The record; a shared folder may show it some seconds after another node wrote it."""
        until = time.monotonic() + PATIENCE
        while True:
            record = finished(self.runs, spec.identity())
            if record or time.monotonic() > until:
                return record
            time.sleep(PAUSE)

    def _fail(self, spec: RunSpec, reason: str) -> None:
        self.failed[spec] = reason
        self.observe(Event(spec, "failed", 1.0, reason))

    def _reason(self, spec: RunSpec, error: Exception) -> str:
        """Why a run has no record, in one line."""
        if spec in self._late:
            return f"it took longer than {self.timeout:g} s."
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            return _line(cause) + "."
        if cause is not None:
            log.debug("%s", error)
            return f"unexpected {type(cause).__name__}: {_line(cause)}."
        return f"its worker or node died at every attempt ({type(error).__name__})."

    def _end_late(self) -> None:
        if self.timeout is None:
            return
        for reference, spec in self._running.items():
            late = time.monotonic() - self._since.get(spec, float("inf")) > self.timeout
            if late and spec not in self._late:
                self._late.add(spec)
                self.ray.cancel(reference, force=True)


# --- in a worker process --------------------------------------------------------------------------
_labs: dict[tuple[Any, ...], ExperimentContext] = {}
_last: dict[str, float] = {}


def work(spec: RunSpec, order: WorkerConfig, channel: Any) -> tuple[str, str]:
    """One run; how it ended ("done", or "skip" where the record was there), and on which machine.

    Raises:
        UserError: as a local run, and if this node has another version of the package.
    """
    import torch

    here = platform.node()
    if order.version != __version__:
        raise UserError(f"{here} has anprompt {__version__}, the driver {order.version}; install one version.")
    if os.path.isdir(order.folder):  # so that relative paths of data sets mean the same
        os.chdir(order.folder)
    torch.set_num_threads(max(1, int(order.cpus)))
    ended = ["done"]
    told: list[Any] = []  # the last news alone: one caller's calls arrive in their order

    def tell(event: Event) -> None:
        if event.kind in ("done", "skip"):  # told by the driver, with the record
            ended[0] = event.kind
        elif event.kind != "step" or time.monotonic() - _last.get("told", 0.0) > TOLD:
            _last["told"] = time.monotonic()
            told[:] = [channel.tell.remote(event)]

    run_all([spec], order.runs, context=_lab(order), observe=tell)
    if told:  # news that comes after a run's end is dropped, and the channel may be slower to start than the run
        import_ray().wait(told, timeout=PATIENCE)
    return ended[0], here


def _lab(order: WorkerConfig) -> ExperimentContext:
    """Backbones, data and pictures of this process, kept from run to run."""
    key = order.device, str(order.runs), order.bank
    if key not in _labs:
        others = max(1, int(hardware()["cores"] / max(order.cpus, 0.1)))
        _labs[key] = ExperimentContext(
            order.device, scratch(order.runs) / "adapters", default_budget(others), order.bank
        )
    return _labs[key]


def _line(error: BaseException) -> str:
    return first_line(error).rstrip(".")
