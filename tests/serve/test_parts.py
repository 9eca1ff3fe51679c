"""The parts of the service on their own: the queue, the cache, the counters, and the command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.adapters.adapter import load_adapter
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.commands.serve import read_token
from anprompt.errors import UserError
from anprompt.serve.batching import Batcher, Closed, Full
from anprompt.serve.engine import Engine, Task
from anprompt.serve.influence import covered, influence
from anprompt.serve.metrics import Histogram
from anprompt.serve.run import bind
from anprompt.serve.settings import is_loopback, known_host


# --- the queue ------------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 7))
def test_every_task_gets_its_own_result_in_order(groups: list[int], batch: int) -> None:
    seen: list[list[int]] = []

    def work(tasks: Sequence[int]) -> list[int | Exception]:
        seen.append(list(tasks))
        return [task * 2 if task % 3 else ValueError(str(task)) for task in tasks]

    batcher: Batcher[int, int] = Batcher(work, queue=1000, batch=batch)
    numbers = iter(range(10_000))
    asked = [[next(numbers) for _ in range(count)] for count in groups]
    futures = [(task, future) for group in asked for task, future in zip(group, batcher.submit(group))]
    for task, future in futures:
        if task % 3:
            assert future.result(10) == task * 2
        else:
            with pytest.raises(ValueError, match=str(task)):
                future.result(10)
    batcher.close(10)
    assert [task for group in seen for task in group] == [task for group in asked for task in group]
    assert max(map(len, seen)) <= batch


class Gate:
    """Work that waits until it may go on."""

    def __init__(self) -> None:
        self.open, self.batches = threading.Event(), []

    def __call__(self, tasks: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(tasks))
        assert self.open.wait(10)
        return list(tasks)


def started(gate: Gate, batcher: Batcher[int, int]):
    """A first task that holds the worker up."""
    future = batcher.submit([0])[0]
    while not gate.batches:
        time.sleep(0.001)
    return future


def test_a_full_queue_takes_all_or_nothing_and_forgets_the_dead() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate, queue=3, batch=8)
    first = started(gate, batcher)
    waiting = batcher.submit([1, 2])
    with pytest.raises(Full):
        batcher.submit([3, 4])
    assert len(batcher) == 2
    assert waiting[0].cancel()
    later = batcher.submit([3, 4])  # the one given up makes room
    gate.open.set()
    assert [f.result(10) for f in (first, waiting[1], *later)] == [0, 2, 3, 4]
    assert gate.batches == [[0], [2, 3, 4]]
    batcher.close(10)


def test_closing_finishes_what_waits_and_takes_nothing_new() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate, queue=9, batch=2, wait=60)
    first, waiting = batcher.submit([0, 0])[0], batcher.submit([1])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.open.set()
    closing.join(10)  # does not wait a minute for company
    assert first.result(10) == 0 and waiting[0].result(10) == 1
    with pytest.raises(Closed):
        batcher.submit([2])


def test_waiting_for_company_has_an_end() -> None:
    batches: list[int] = []
    batcher: Batcher[int, int] = Batcher(list, queue=9, batch=3, wait=0.2, seen=batches.append)
    begun = time.monotonic()
    assert batcher.submit([1])[0].result(10) == 1
    assert time.monotonic() - begun >= 0.15
    futures = [*batcher.submit([1]), *batcher.submit([2]), *batcher.submit([3])]
    assert [f.result(10) for f in futures] == [1, 2, 3] and batches == [1, 3]
    batcher.close(10)


# --- the engine -----------------------------------------------------------------------------------
def test_a_class_list_that_fails_spoils_no_other(adapter_folder: Path, tiny_backbone: Backbone) -> None:
    engine = Engine(load_adapter(adapter_folder, backbone=tiny_backbone), lists=2)
    view = np.zeros((32, 32, 3), np.uint8)
    long = ("ab " * 60, "c")
    results = engine.run([Task(view, ("a", "b")), Task(view, long), Task(view + 9, ("a", "b"), True)])
    assert isinstance(results[1], UserError)
    alone = engine.run([Task(view + 9, ("a", "b"), True)])[0]
    assert torch.allclose(results[2].adapter, alone.adapter, atol=1e-4)
    assert torch.allclose(results[2].zeroshot, alone.zeroshot, atol=1e-4)


def test_text_features_are_kept_for_the_lists_used_last(adapter_folder: Path, tiny_backbone: Backbone) -> None:
    engine = Engine(load_adapter(adapter_folder, backbone=tiny_backbone), lists=2)
    first = engine.classifier(("a", "b"))
    engine.classifier(("c", "d"))
    assert engine.classifier(("a", "b")) is first
    engine.classifier(("e", "f"))
    assert [names for names, _ in engine._ready] == [("a", "b"), ("e", "f")]
    engine._ready.budget = 0
    engine.classifier(("g", "h"))
    assert [names for names, _ in engine._ready] == [("g", "h")]


def test_covering_covers_every_square_once() -> None:
    view = np.random.default_rng(0).integers(0, 256, (31, 31, 3), dtype=np.uint8)
    changed = np.stack([(part != view).any(axis=2) for part in covered(view, 4)])
    assert len(changed) == 16 and (changed.sum(axis=0) <= 1).all() and changed.any(axis=0).mean() > 0.9


def test_influence_stays_finite_when_the_answer_is_certain() -> None:
    whole, parts = torch.tensor([400.0, 0.0]), torch.tensor([[400.0, 0.0], [300.0, 0.0], [0.0, 9.0], [401.0, 0.0]])
    found = influence(whole, parts, ("a", "b"), 2)
    assert found["class"] == "a" and found["change"] == [[0, 100], [409, -1]]


# --- the bounds and the counters --------------------------------------------------------------------
def test_hosts_that_name_this_service() -> None:
    for good in (
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1",
        "127.0.0.1:9",
        "[::1]",
        "[::1]:9",
        "192.168.0.7:80",
        "box:1",
    ):
        assert known_host(good, ("box",)), good
    for bad in ("", "evil.com", "localhost.evil.com", "127.0.0.1.nip.io", "1.2.3.4.5", "boxx", "[evil]:80", "a:b:c"):
        assert not known_host(bad, ("box",)), bad
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("example.org")


@given(st.lists(st.floats(0, 100), max_size=30))
def test_histograms_count_up_to_and_including_their_bounds(values: list[float]) -> None:
    histogram = Histogram((1.0, 5.0, 20.0))
    for value in values:
        histogram.add(value)
    counts = [int(line.rsplit(" ", 1)[1]) for line in histogram.lines("h") if "_bucket" in line]
    assert counts == [sum(v <= bound for v in values) for bound in (1, 5, 20, 1e9)]


def test_a_token_is_needed_where_others_can_ask(tmp_path: Path) -> None:
    assert read_token(None, False, "127.0.0.1") is None
    assert read_token(None, True, "0.0.0.0") is None
    (tmp_path / "token").write_text("long-enough\n")
    assert read_token(f"@{tmp_path / 'token'}", False, "0.0.0.0") == "long-enough"
    for token, no_token, message in (
        (None, False, "Others can reach 0.0.0.0"), ("long-enough", True, "either --token or --no-token"),
        ("short", False, "at least 8"), ("with a space", False, "without spaces"), ("@/nowhere", False, "can't read"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_token(token, no_token, "0.0.0.0")


# --- the command ------------------------------------------------------------------------------------
def test_wrong_options_are_one_line(adapter_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        for words, message in (
            ([str(adapter_folder), "--host", "0.0.0.0"], "Others can reach 0.0.0.0: give a --token"),
            ([str(adapter_folder), "--port", port], f"Can't listen on 127.0.0.1 port {port} (Address already in use)"),
            ([str(adapter_folder), "--port", "70000"], "must be a whole number from 0 to 65535, not 70000"),
            ([str(adapter_folder), "--host", "no.such.host.invalid", "--no-token"], "Can't listen on no.such.host"),
            (["nowhere", "--port", "0"], "Adapter 'nowhere' does not exist"),
            (["zeroshot", "--port", "0"], "zeroshot knows no classes of its own"),
            ([str(adapter_folder), "--batch", "0"], "must be a whole number from 1 on"),
        ):
            assert main(["serve", *words]) == 2
            error = capsys.readouterr().err
            assert message in error and error.count("\n") == 1, error


def test_sigterm_finishes_running_requests(adapter_folder: Path, tmp_path: Path) -> None:
    """A real process: it says where it listens, answers, and on SIGTERM ends well, with the last answer given."""
    code = (
        "import time\n"
        "from anprompt.serve import engine\n"
        "real = engine.Engine.run\n"
        "def slow(self, tasks):\n"
        "    time.sleep(1)\n"
        "    return real(self, tasks)\n"
        "engine.Engine.run = slow\n"
        "import sys; from anprompt.commands.main import main; sys.exit(main(sys.argv[1:]))\n"
    )
    from tests.serving import form, picture

    words = [sys.executable, "-c", code, "serve", str(adapter_folder), "--port", "0"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, (line, (tmp_path / "log").read_text())
        kind, body = form([picture(0)], {})
        answers: list[int] = []

        def ask() -> None:
            request = urllib.request.Request(found[0] + "v1/predict", body, {"Content-Type": kind})
            with urllib.request.urlopen(request, timeout=60) as answer:
                answers.append(answer.status)

        asking = threading.Thread(target=ask)
        asking.start()
        while b"running 1" not in urllib.request.urlopen(found[0] + "metrics", timeout=60).read():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert process.wait(60) == 0 and answers == [200]
        assert (tmp_path / "log").read_text().strip() == "anprompt: stopped"
    finally:
        process.kill()
        process.stdout.close()
        log.close()
