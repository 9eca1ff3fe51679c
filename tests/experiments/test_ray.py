"""Sweeps on Ray: the records of a local sweep, though workers are killed, runs fail or take too long."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.experiments import Event, RunSpec
from anprompt.experiments.records import read_records
from anprompt.experiments.runners.ray import WorkerResources, check_address, run_ray
from anprompt.experiments.sweep import run_all
from anprompt.training.feature_cache import DiskFeatureCache

BENCH = ["bench", "base-to-new", "--data", "embedded:food", "--methods", "zeroshot"]


# --- without a cluster ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--address", "auto"], "add --engine ray"),
        (["--gpus-per-run", "0.5"], "--gpus-per-run is for clusters"),
        (["--engine", "ray", "--jobs", "2"], "--cpus-per-run"),
        (["--engine", "rai"], "Did you mean 'ray'"),
        (["--engine", "ray", "--cpus-per-run", "-1"], "number from 0 on"),
        (["--engine", "ray", "--address", "cluster"], "must be host:port"),
    ],
)
def test_options_that_do_not_fit_are_told_in_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BENCH, "--runs", str(tmp_path / "runs"), *options]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_where_ray_is_missing_the_command_to_get_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*BENCH, "--runs", str(tmp_path), "--engine", "ray"]) == 2
    told = capsys.readouterr().err
    assert "pip install 'anprompt[ray]'" in told and told.count("\n") == 1


def test_an_address_where_nothing_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(UserError, match="No Ray cluster answers") as told:
            check_address(address)
        assert "\n" not in str(told.value)


# --- with one -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One node with one core, for all tests of this file."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # for a busy machine
    ray = pytest.importorskip("ray")
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
        object_store_memory=80 * 2**20, logging_level=logging.ERROR,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def specs(photo_folder: Path, tiny_folder: Path) -> list[RunSpec]:
    settings = (("draws", 2), ("projection_rank", 4), ("token_width", 16))
    train = (("batch_size", 2), ("epochs", 12))
    common = {"shots": 2, "backbone": str(tiny_folder), "settings": settings, "train": train}
    return [RunSpec(str(photo_folder), seed=seed, **common) for seed in (1, 2, 3)]


def workers() -> list[int]:
    """Processes below this one that execute a run."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:  # has just ended
            continue
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return [pid for pid in ours if titles.get(pid, b"").startswith(b"ray::work")]


def test_a_sweep_loses_a_worker_and_no_run(cluster: None, specs: list[RunSpec], tmp_path: Path) -> None:
    place, events, killed = f"file://{tmp_path}/runs", [], []

    def watch(event: Event) -> None:
        events.append(event)
        if event.spec == specs[1] and event.kind == "epoch" and not killed:
            killed.extend(workers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    records = run_ray(specs, place, observe=watch)
    assert killed
    starts = [event.spec.seed for event in events if event.kind == "start"]
    assert sorted(starts) == [1, 2, 2, 3]  # the killed run was begun again, the others were not
    assert [event.kind for event in events if event.record] == ["done"] * 3
    whole = run_all(specs, tmp_path / "whole")
    assert [record["metrics"] for record in records] == [record["metrics"] for record in whole]
    assert len(read_records(place)) == 3

    events.clear()
    assert run_ray(specs, place, observe=watch) == records
    assert [event.kind for event in events] == ["skip"] * 3


def test_a_run_that_fails_leaves_the_others_alone(cluster: None, specs: list[RunSpec], tmp_path: Path) -> None:
    missing = dataclasses.replace(specs[0], dataset=str(tmp_path / "nowhere"))
    events: list[Event] = []
    with pytest.raises(UserError, match=r"^1 of 2 runs failed, first .*nowhere") as told:
        run_ray([missing, specs[1]], tmp_path / "runs", observe=events.append)
    assert "\n" not in str(told.value)
    last = {event.spec: event for event in events}
    assert last[missing].kind == "failed" and "nowhere" in last[missing].text and last[specs[1]].kind == "done"
    assert [record["spec"]["seed"] for record in read_records(tmp_path / "runs")] == [2]


def test_a_run_that_takes_too_long_is_ended(cluster: None, specs: list[RunSpec], tmp_path: Path) -> None:
    endless = dataclasses.replace(specs[0], train=(("batch_size", 2), ("epochs", 100_000)))
    with pytest.raises(UserError, match=r"^1 of 1 runs failed, first .* it took longer than 1 s\."):
        run_ray([endless], tmp_path / "runs", timeout=1)
    assert not list((tmp_path / "runs").glob("*.json"))


def test_ctrl_c_ends_the_runs(cluster: None, specs: list[RunSpec], tmp_path: Path) -> None:
    endless = dataclasses.replace(specs[0], train=(("batch_size", 2), ("epochs", 100_000)))

    def interrupt(event: Event) -> None:
        if event.kind == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ray([endless, specs[1]], tmp_path / "runs", observe=interrupt)
    bank = str(tmp_path / "bank"), 1.0
    records = run_ray(specs[2:], tmp_path / "runs", bank=bank)  # the only core is free again
    assert [record["spec"]["seed"] for record in records] == [3]
    assert DiskFeatureCache(*bank).shards()  # a node's runs share it
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1


def test_a_node_too_small_is_told(cluster: None, specs: list[RunSpec], caplog: pytest.LogCaptureFixture) -> None:
    import ray

    from anprompt.experiments.runners.ray import check_room

    with pytest.raises(UserError, match=r"needs 1 CPU, 4 GPU, which this machine does not have"):
        check_room(ray, WorkerResources(gpus=4), ours=True)
    check_room(ray, WorkerResources(), ours=True)
