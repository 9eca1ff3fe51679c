"""One run on several processes equals one on one; only the first writes; none waits for one that is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.errors import UserError
from anprompt.evaluation.evaluate import evaluate
from anprompt.methods import Classifier, Method, build_method, methods
from anprompt.prompting.process_group import LostProcess, Team, join, leave
from anprompt.training.distributed import split_batches
from anprompt.training.loop import NonFiniteLoss, TrainConfig, TrainLog, fit
from anprompt.utils.files import read_tensors, write_tensors
from tests.fake_views import FakeViews

ROOT = Path(__file__).parents[2]
COUNT = 11  # pictures
NAMES = ["cat", "red panda", "fire engine"]
SMALL: dict[str, dict[str, Any]] = {
    "anprompt": {"n_tokens": 2, "token_width": 8, "projection_rank": 2, "rank": 1, "draws": 2},
    "mmrl": {"n_tokens": 2, "token_width": 8},
    "mmrlpp": {"n_tokens": 2, "token_width": 8, "projection_rank": 2},
    "promptsrc": {"teacher_templates": 2},
    "coop": {"n_context": 2},
}
TRAINED = [name for name in sorted(methods()) if methods()[name].trains and not methods()[name].from_features]
CONFIG = TrainConfig(epochs=2, batch_size=5, lr=2e-3, warmup_epochs=0)  # slices of 2 and 3, and of 1, 2, 2


class BrokenViews(FakeViews):
    """Pictures of NaN."""

    def train_batch(self, indices: Tensor, epoch: int) -> Tensor:
        return super().train_batch(indices, epoch) * torch.nan


def train(name: str, backbone: Backbone, config: TrainConfig = CONFIG, **more: Any) -> tuple[Method, TrainLog]:
    method = build_method(name, backbone, NAMES, settings=SMALL.get(name), seed=1)
    views = FakeViews(backbone.dims.image_size, COUNT)

    def validate() -> float:
        return evaluate(Classifier(method), views, team=more.get("team")).accuracy

    return method, fit(method, views, config, validate=validate, **more)


# --- in the processes -----------------------------------------------------------------------------
def work_all(team: Team, folder: Path, backbone: Backbone) -> None:
    """Every method, half precision, a resumed run, a broken loss; the results go to a file per process."""
    found: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name in TRAINED:
        method, log = train(name, backbone, team=team)
        found.update({f"{name}/{key}": value for key, value in method.state_dict().items()})
        facts[name] = log.epochs
    for precision in ("bf16", "fp16"):
        config = TrainConfig(epochs=1, batch_size=5, lr=1e-5, precision=precision)
        method, log = train("anprompt", backbone, config, team=team)
        found.update({f"{precision}/{key}": value for key, value in method.state_dict().items()})
        facts[precision] = log.epochs
    method, facts["resumed"] = resumed(team, folder, backbone)
    found.update({f"resumed/{key}": value for key, value in method.state_dict().items()})
    views = FakeViews(backbone.dims.image_size, COUNT)
    seen = evaluate(Classifier(method), views, batch_size=2, team=team)
    found.update(predictions=seen.predictions, confidences=seen.confidences)
    facts["refusals"] = refusals(team, backbone)
    write_tensors(folder / f"{team.rank}.safetensors", found)
    (folder / f"{team.rank}.json").write_text(json.dumps(facts))


def resumed(team: Team, folder: Path, backbone: Backbone) -> tuple[Method, int]:
    """A run stopped in its second epoch and started again; only the first process sees the folder of states."""

    def stop(epoch: int, number: int, steps: int, parts: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    state = folder / f"state of {team.rank}"
    with pytest.raises(KeyboardInterrupt):
        train("anprompt", backbone, team=team, state=state, on_step=stop)
    assert state.exists() == team.first
    method, log = train("anprompt", backbone, team=team, state=state)
    return method, log.resumed_from


def refusals(team: Team, backbone: Backbone) -> list[str]:
    """What can't be done, and a loss that breaks in one process alone."""
    lines = []
    views = FakeViews(backbone.dims.image_size, COUNT)
    for kind in ("batch", "plug-in", "data", "nan"):
        method = build_method("coop", backbone, NAMES, settings=SMALL["coop"], seed=1)
        config = TrainConfig(epochs=1, batch_size=1 if kind == "batch" else 5, warmup_epochs=0)
        if kind == "plug-in":
            method.splits = False  # type: ignore[misc]
        if kind == "data":
            views.fingerprint = f"fake {team.rank}"
        if kind == "nan":
            views = (
                BrokenViews(backbone.dims.image_size, COUNT)
                if team.rank
                else FakeViews(backbone.dims.image_size, COUNT)
            )
        try:
            fit(method, views, config, team=team)
        except UserError as error:
            lines.append(("broke: " if isinstance(error, NonFiniteLoss) else "") + str(error))
    return lines


def work_lost(team: Team, folder: Path, backbone: Backbone) -> None:
    """The last process ends, or hangs, in the middle of training; the others say what they met and when."""
    how = (folder / "how").read_text()

    def vanish(epoch: int, number: int, steps: int, parts: object) -> None:
        if number == 1 and team.rank == team.size - 1:
            os.kill(os.getpid(), {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}[how])

    try:
        train("anprompt", backbone, team=team, on_step=vanish)
    except LostProcess as error:
        (folder / f"{team.rank}.json").write_text(json.dumps(str(error)))
        os._exit(7)  # the connections are broken: nothing to take leave of


def main() -> None:
    work, folder, model = sys.argv[1:4]
    torch.set_num_threads(1)
    team = join("cpu")
    {"all": work_all, "lost": work_lost}[work](team, Path(folder), load_backbone(model))
    leave()


# --- here -----------------------------------------------------------------------------------------
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(arguments: list[str], size: int, **more: str) -> list[subprocess.Popen]:
    """Processes as torchrun starts them, without its own."""
    common = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1", **more,
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def ends(processes: list[subprocess.Popen], timeout: float = 300) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each."""
    try:
        return [(p.wait(timeout), *p.communicate())[:3] for p in processes]  # type: ignore[misc]
    finally:
        for process in processes:
            process.kill()


def module(work: str, folder: Path, model: Path) -> list[str]:
    return ["-m", "tests.training.test_distributed", work, str(folder), str(model)]


@pytest.fixture(scope="module", params=[2, 3])
def results(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Tensor]], list[dict[str, Any]]]:
    """Tensors and facts of each process."""
    folder = tmp_path_factory.mktemp("processes")
    for code, _, stderr in ends(start(module("all", folder, tiny_folder), request.param)):
        assert code == 0, stderr
    ranks = range(request.param)
    return [read_tensors(folder / f"{rank}.safetensors")[0] for rank in ranks], [
        json.loads((folder / f"{rank}.json").read_text()) for rank in ranks
    ]


def difference(found: dict[str, Tensor], name: str, method: Method) -> float:
    state = method.state_dict()
    mine = {key.removeprefix(f"{name}/"): v for key, v in found.items() if key.startswith(f"{name}/")}
    assert mine.keys() == state.keys()
    return max(float((mine[key] - state[key]).abs().max()) for key in state)


def test_all_methods_equal_one_process(results: Any, tiny_backbone: Backbone) -> None:
    """Parameters, fixed tensors, loss parts and validation after 4 steps with uneven slices."""
    tensors, facts = results
    for name in TRAINED:
        method, log = train(name, tiny_backbone)
        start = build_method(name, tiny_backbone, NAMES, settings=SMALL.get(name), seed=1)
        moved = max(float((v - start.state_dict()[k]).abs().max()) for k, v in method.state_dict().items())
        assert difference(tensors[0], name, method) < 1e-5 < 1e-3 < moved, name
        for mine, whole in zip(facts[0][name], log.epochs, strict=True):
            assert mine == pytest.approx(whole, rel=1e-4, abs=1e-5), name


def test_all_processes_hold_the_same_bits(results: Any) -> None:
    tensors, facts = results
    for other, said in zip(tensors[1:], facts[1:], strict=True):
        assert other.keys() == tensors[0].keys()
        assert all(torch.equal(other[key], value) for key, value in tensors[0].items())
        assert said == facts[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(precision: str, results: Any, tiny_backbone: Backbone) -> None:
    config = TrainConfig(epochs=1, batch_size=5, lr=1e-5, precision=precision)
    method, log = train("anprompt", tiny_backbone, config)
    tensors, facts = results
    assert facts[0][precision][0]["loss"] == pytest.approx(log.epochs[0]["loss"], rel=2e-2)
    assert difference(tensors[0], precision, method) < 2e-4


def test_resume_reads_the_first_process_state(results: Any) -> None:
    tensors, facts = results
    assert [said["resumed"] for said in facts] == [1] * len(facts)
    resumed = {k: v for k, v in tensors[0].items() if k.startswith("resumed/")}
    assert resumed
    for key, value in resumed.items():
        assert torch.equal(value, tensors[0][key.replace("resumed", "anprompt", 1)])


def test_evaluation_in_shares_equals_the_whole(results: Any, tiny_backbone: Backbone) -> None:
    whole = evaluate(Classifier(train("anprompt", tiny_backbone)[0]), FakeViews(tiny_backbone.dims.image_size, COUNT))
    assert torch.equal(results[0][0]["predictions"], whole.predictions)
    torch.testing.assert_close(results[0][0]["confidences"], whole.confidences, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_done_is_one_line_in_all_processes(results: Any) -> None:
    size = len(results[1])
    batch, plugin, data, nan = results[1][0]["refusals"]
    assert batch.startswith(f"A batch of 1 can't be split over {size} processes; use --batch-size {size}")
    assert "'coop'" in plugin and "`splits`" in plugin
    assert "different data" in data
    assert nan.startswith("broke: Training broke: loss part 'ce' is NaN or Inf at epoch 1, step 1.")


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_one_lost_process_stops_the_others(how: str, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "how").write_text(how)
    processes = start(module("lost", tmp_path, tiny_folder), 2, ANPROMPT_RANK_TIMEOUT="3" if how == "hangs" else "300")
    try:
        assert processes[0].wait(300) == 7, processes[0].communicate()[1]
    finally:
        for process in processes:
            process.kill()
    assert "another process of this run ended, or did not answer" in json.loads((tmp_path / "0.json").read_text())


class Alone:
    """A store that has heard nothing, or one that is gone."""

    def __init__(self, gone: bool = False) -> None:
        self.counts: dict[str, int] = {}
        self.gone = gone

    def add(self, key: str, amount: int) -> int:
        if self.gone:
            raise RuntimeError("connection reset")
        self.counts[key] = self.counts.get(key, 0) + amount
        return self.counts[key]


def test_every_cause_is_said_once_and_consequences_only_without_one() -> None:
    store: Any = Alone()
    teams = [Team(rank, 3, torch.device("cpu"), store, 1.0) for rank in range(3)]
    assert [team.speaks("bad value", cause=True) for team in teams] == [True, False, False]
    assert not teams[2].speaks("another ended", cause=False)
    quiet: Any = Alone()
    lost = [Team(rank, 3, torch.device("cpu"), quiet, 1.0) for rank in range(3)]
    assert [team.speaks("another ended", cause=False) for team in lost] == [True, False, False]
    gone: Any = Alone(gone=True)
    assert Team(1, 3, torch.device("cpu"), gone, 1.0).speaks("another ended", cause=False)


@pytest.mark.parametrize("count,size", [(5, 2), (7, 3), (3, 3), (1, 2), (100, 7)])
def test_shares_cover_a_batch_and_differ_by_one(count: int, size: int) -> None:
    store: Any = Alone()
    bounds = [Team(rank, size, torch.device("cpu"), store, 1.0).bounds(count) for rank in range(size)]
    assert [place for start, stop in bounds for place in range(start, stop)] == list(range(count))
    sizes = {stop - start for start, stop in bounds}
    assert max(sizes) - min(sizes) <= 1


def test_too_many_processes_name_the_least_batch(tiny_backbone: Backbone) -> None:
    store: Any = Alone()
    method = build_method("coop", tiny_backbone, NAMES)
    with pytest.raises(UserError, match="batch of 2 can't be split over 4 processes; use --batch-size 4"):
        split_batches(Team(0, 4, torch.device("cpu"), store, 1.0), method, 2)


if __name__ == "__main__":
    main()
