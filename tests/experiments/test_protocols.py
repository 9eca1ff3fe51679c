"""Base-to-new runs and sweeps on a tiny CLIP and a folder of small pictures."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt import experiments as protocols
from anprompt import methods
from anprompt.backbones import resolve_device
from anprompt.commands import bench
from anprompt.commands.main import main as anprompt
from anprompt.data.splits import subset_classes
from anprompt.data.types import Item
from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.evaluation.wording import disturbed_classifier
from anprompt.experiments import Event, ExperimentContext, RunSpec
from anprompt.experiments.records import dataset_hash, finished, predicted, record_path
from anprompt.experiments.runners.local import default_jobs, grouped, run_parallel
from anprompt.experiments.sweep import plan, run_all
from anprompt.methods import create_method
from anprompt.methods.registry import registered
from anprompt.training.frozen_features import FrozenFeatures

SMALL = (("draws", 2), ("projection_rank", 4), ("token_width", 16))
RECIPE = (("epochs", 2), ("lr", 0.01))


@pytest.fixture
def context(tiny_backbone) -> ExperimentContext:
    made = ExperimentContext()
    made.use("embedded", tiny_backbone)
    return made


@pytest.fixture
def spec(photo_folder: Path) -> RunSpec:
    return RunSpec(str(photo_folder), shots=4, settings=SMALL, train=RECIPE)


def without_times(record: dict) -> dict:
    """A record without what two equal runs may differ in."""
    log = {key: value for key, value in record["log"].items() if key not in ("seconds", "resumed_from")}
    return {**{k: v for k, v in record.items() if k not in ("timings", "memory", "finished")}, "log": log}


# --- one run --------------------------------------------------------------------------------------
def test_a_record_says_what_was_run(spec: RunSpec, context: ExperimentContext) -> None:
    record = protocols.run_protocol(spec, context)
    base, new = record["metrics"]["base"], record["metrics"]["new"]
    assert (base["head"], new["head"]) == ("trained", "unseen")
    assert list(base["per_class"]) == ["blue_square", "green square"]
    assert list(new["per_class"]) == ["red_square", "yellow square"]
    tested = subset_classes(context.dataset(spec), "base").test
    assert len(predicted(base)) == base["pictures"] == len(tested) > 0 and set(predicted(new)) <= {0, 1}
    assert record["data"]["train_pictures"] == 8 and record["data"]["classes"] == {"base": 2, "new": 2}
    assert record["train"]["epochs"] == 2 and len(record["log"]["epochs"]) == 2
    assert record["backbone"]["weight_hash"] == context.backbone(spec).weight_hash
    assert record["data"]["hash"] == dataset_hash(context.dataset(spec))
    assert record["method"]["trained_parameters"] > 0 and record["timings"]["step_s"] > 0


def test_zero_shot_trains_nothing(spec: RunSpec, context: ExperimentContext) -> None:
    record = protocols.run_protocol(dataclasses.replace(spec, method="zeroshot", settings=(), train=()), context)
    assert record["train"] is None and record["log"]["steps"] == 0
    assert record["metrics"]["base"]["head"] == "trained"  # all names known to it; zero-shot has one head only


def test_the_same_specification_gives_the_same_record(spec: RunSpec, context: ExperimentContext) -> None:
    assert without_times(protocols.run_protocol(spec, context)) == without_times(protocols.run_protocol(spec, context))


def test_seed_and_settings_are_part_of_the_identity_and_the_root_is_not(spec: RunSpec) -> None:
    same = dataclasses.replace(spec, root="/elsewhere")
    assert same.identity() == spec.identity() and same == spec
    for change in ({"seed": 2}, {"settings": ()}, {"train": ()}, {"shots": None}, {"precision": "bf16"}):
        assert dataclasses.replace(spec, **change).identity() != spec.identity()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"protocol": "base-to-mew"}, "Did you mean 'base-to-new'"),
        ({"method": "anpromt"}, "Did you mean 'anprompt'"),
        ({"conditions": ("image:fogg:3",)}, "Did you mean 'fog'"),
    ],
)
def test_a_wrong_specification_is_refused_at_once(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunSpec("embedded:food", **change)


def test_unreadable_pictures_are_counted(spec: RunSpec, context: ExperimentContext, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        for index in range(6):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    broken = tmp_path / "a" / "0.png"
    broken.write_bytes(broken.read_bytes()[:300])
    record = protocols.run_protocol(dataclasses.replace(spec, dataset=str(tmp_path), shots=None), context)
    assert record["data"]["skipped_count"] == 1 and "0.png" in record["data"]["skipped"][0]


# --- conditions -----------------------------------------------------------------------------------
def test_conditions_are_measured_and_marked(spec: RunSpec, context: ExperimentContext) -> None:
    noisy = dataclasses.replace(spec, conditions=("image:fog:5", "text:typo:2"))
    metrics = protocols.run_protocol(noisy, context)["metrics"]
    assert list(metrics["conditions"]) == ["image:fog:5", "text:typo:2"]
    assert not metrics["conditions"]["image:fog:5"]["seen_in_training"]
    assert metrics["conditions"]["text:typo:2"]["seen_in_training"]
    # results under noise are counted under the true names, with the head of the true names
    base = metrics["conditions"]["text:typo:2"]["base"]
    assert list(base["per_class"]) == list(metrics["base"]["per_class"]) and base["head"] == "trained"
    assert metrics["base"] == protocols.run_protocol(spec, context)["metrics"]["base"]  # clean is not touched


def test_noise_is_a_function_of_the_picture() -> None:
    plain = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    reader = Condition.parse("image:gaussian_noise:3").reader(lambda item: plain, 32)
    one, again, other = (np.asarray(reader(Item(path, 0, "x"))) for path in ("a", "a", "b"))
    assert (one == again).all() and (one != other).any() and (one != 128).any()


def test_noisy_names_reach_the_text_encoder(tiny_backbone) -> None:
    method = create_method("zeroshot", tiny_backbone, ["tabby cat", "red fox"])
    typo = Condition.parse("text:typo:3")
    assert typo.names(["tabby cat"]) != ["tabby cat"] and typo.names(["tabby cat"]) == typo.names(["tabby cat"])
    noisy = disturbed_classifier(typo, method, ["tabby cat", "red fox"])
    assert noisy.classnames == ("tabby cat", "red fox")
    clean = disturbed_classifier(Condition.parse("text:typo:0"), method, ["tabby cat", "red fox"])
    assert not torch.allclose(noisy.text["text"], clean.text["text"])


@pytest.mark.parametrize("text", ["fog", "image:fog", "image:fog:high", "image:fog:9", "sound:fog:1", "text:fog:1"])
def test_a_wrong_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Condition.parse(text)


# --- sweeps ---------------------------------------------------------------------------------------
def test_plan_runs_untrained_methods_once() -> None:
    specs = plan(["embedded:a"], ["zeroshot", "anprompt"], [1, 2, 3], shots=4)
    assert [(s.method, s.seed) for s in specs] == [
        ("zeroshot", 1), ("anprompt", 1), ("anprompt", 2), ("anprompt", 3),
    ]  # fmt: skip


def test_a_third_party_method_says_itself_that_it_has_nothing_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = type("Frozen", (methods.ZeroShot,), {"name": "frozen"})
    trained = type("Trained", (methods.CoOp,), {"name": "trained"})
    known = {**registered(), "frozen": frozen, "trained": trained}
    monkeypatch.setattr("anprompt.methods.registry.registered", lambda: known)
    specs = plan(["embedded:a"], ["frozen", "trained"], [1, 2], shots=4)
    assert [(s.method, s.seed) for s in specs] == [("frozen", 1), ("trained", 1), ("trained", 2)]


def test_a_finished_run_is_not_computed_again(spec: RunSpec, context: ExperimentContext, tmp_path: Path) -> None:
    events: list[Event] = []
    first = run_all([spec], tmp_path, context=context, observe=events.append)
    assert {"start", "step", "epoch", "evaluate", "done"} <= {event.kind for event in events}
    assert [path.name for path in tmp_path.iterdir()] == [record_path(tmp_path, spec.identity()).name]
    events.clear()
    assert run_all([spec], tmp_path, context=context, observe=events.append) == first
    assert [event.kind for event in events] == ["skip"]


class Killed(BaseException):
    """Stands for a kill at that moment: nothing catches it."""


def test_a_killed_run_goes_on_and_loses_nothing(spec: RunSpec, context: ExperimentContext, tmp_path: Path) -> None:
    whole = run_all([spec], tmp_path / "whole", context=context)[0]

    def kill(event: Event) -> None:
        if event.kind == "epoch" and event.progress < 1:
            raise Killed

    runs = tmp_path / "killed"
    with pytest.raises(Killed):
        run_all([spec], runs, context=context, observe=kill)
    assert finished(runs, spec.identity()) is None
    events: list[Event] = []
    resumed = run_all([spec], runs, context=context, observe=events.append)[0]
    assert resumed["log"]["resumed_from"] == 1
    assert [event.kind for event in events].count("epoch") == 1  # the first epoch was not run again
    assert without_times(resumed) == without_times(whole)
    assert not (runs / "unfinished").exists()


def test_other_runs_of_a_killed_sweep_are_kept(spec: RunSpec, context: ExperimentContext, tmp_path: Path) -> None:
    second = dataclasses.replace(spec, seed=2)

    def kill(event: Event) -> None:
        if event.spec == second:
            raise Killed

    with pytest.raises(Killed):
        run_all([spec, second], tmp_path, context=context, observe=kill)
    events: list[Event] = []
    run_all([spec, second], tmp_path, context=context, observe=events.append)
    assert [event.kind for event in events if event.spec == spec] == ["skip"]


def test_a_record_of_other_weights_is_run_again(spec: RunSpec, context: ExperimentContext, tmp_path: Path) -> None:
    quick = dataclasses.replace(spec, method="zeroshot", settings=(), train=())
    record = run_all([quick], tmp_path, context=context)[0]
    path = record_path(tmp_path, quick.identity())
    path.write_text(path.read_text().replace(record["backbone"]["weight_hash"], "0" * 64))
    events: list[Event] = []
    again = run_all([quick], tmp_path, context=context, observe=events.append)[0]
    assert "done" in [event.kind for event in events] and without_times(again) == without_times(record)


def test_threads_are_left_as_they_were(spec: RunSpec, context: ExperimentContext, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    record = run_all([dataclasses.replace(spec, method="zeroshot", settings=(), train=())], tmp_path, context=context)[
        0
    ]
    assert record["hardware"]["threads"] == 1 and torch.get_num_threads() == before


# --- the command ----------------------------------------------------------------------------------
def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["base-to-new", *arguments])


def test_bench_prints_and_writes_a_table(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parsed(
        "--data", str(photo_folder), "--backbone", str(tiny_folder), "--seeds", "1,2", "--shots", "2",
        "--set", "epochs=1", "--set", "token_width=8", "--runs", str(tmp_path / "runs"),
    )  # fmt: skip
    assert bench.run(args) == 0
    assert "zeroshot" in capsys.readouterr().out
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| anprompt (token_width=8, epochs=1) |" in table and " ± " in table
    assert len(list((tmp_path / "runs").glob("base-to-new_*.json"))) == 3
    args.dry_run = True
    assert bench.run(args) == 0
    assert capsys.readouterr().out.count("done") == 3


def test_settings_go_to_the_methods_that_know_them() -> None:
    found = bench.overrides({"epochs": 3, "noise_amount": 0.2}, ["zeroshot", "anprompt"])
    assert found == {"zeroshot": ((), ()), "anprompt": ((("noise_amount", 0.2),), (("epochs", 3),))}
    with pytest.raises(UserError, match="noise_amount"):
        bench.overrides({"noise_amuont": 0.2}, ["zeroshot", "anprompt"])


@pytest.mark.parametrize(
    "arguments", [("--seeds", ""), ("--seeds", "1,x"), ("--methods", ","), ("--methods", "anpromt"), ("--data", "")]
)
def test_bench_refuses_wrong_lists(arguments: tuple[str, str]) -> None:
    with pytest.raises(UserError):
        bench.specifications(parsed(*arguments))


# --- side by side ---------------------------------------------------------------------------------
def test_parallel_runs_give_the_same_records(
    spec: RunSpec, context: ExperimentContext, tiny_folder: Path, tmp_path: Path
) -> None:
    specs = [dataclasses.replace(spec, seed=seed, backbone=str(tiny_folder)) for seed in (1, 2)]
    alone = run_all(specs, tmp_path / "alone", context=context)
    events: list[Event] = []
    together = run_parallel(specs, tmp_path / "together", jobs=2, observe=events.append)
    assert [r["metrics"] for r in together] == [r["metrics"] for r in alone]
    assert [event.kind for event in events].count("done") == 2


def test_runs_side_by_side_share_a_view_bank(
    spec: RunSpec, context: ExperimentContext, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [dataclasses.replace(spec, seed=seed, backbone=str(tiny_folder)) for seed in (1, 2)]
    alone = run_all(specs, tmp_path / "alone", context=context)
    bank = str(tmp_path / "bank"), 1.0
    together = run_parallel(specs, tmp_path / "together", jobs=2, bank=bank)
    assert [r["metrics"] for r in together] == [r["metrics"] for r in alone]
    looked: list[Any] = []  # and a later sweep finds every view there
    monkeypatch.setattr(FrozenFeatures, "compute", lambda self, pixels: looked.append(pixels))
    again = run_parallel(specs, tmp_path / "again", jobs=1, bank=bank)
    assert [r["metrics"] for r in again] == [r["metrics"] for r in alone] and not looked


def test_a_bank_that_cannot_be_made_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    asked = ["bench", "base-to-new", "--data", "embedded:sky", "--bank", str(tmp_path / "file")]
    assert anprompt([*asked, "--runs", str(tmp_path / "runs")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("anprompt: ")]
    assert "can't be made" in line and not list((tmp_path / "runs").glob("*.json"))


def test_runs_under_conditions_are_grouped_by_data() -> None:
    noisy = {"conditions": ("image:fog:1",)}
    a, b = (RunSpec(name, method=m, **noisy) for name, m in (("one", "coop"), ("one", "maple")))
    c, d = RunSpec("two", method="coop", **noisy), RunSpec("two", method="coop")
    assert grouped([a, c, b, d], 2) == [[a, b], [c], [d]]
    assert grouped([a, b], 2) == [[a], [b]]  # a process for each is better than one that waits
    assert grouped([d, RunSpec("two", method="maple")], 1) == [[d], [RunSpec("two", method="maple")]]


def test_a_failed_parallel_run_is_one_plain_error(spec: RunSpec, tiny_folder: Path, tmp_path: Path) -> None:
    specs = [dataclasses.replace(spec, dataset=f"no_such_{i}", backbone=str(tiny_folder)) for i in (1, 2)]
    with pytest.raises(UserError, match="no_such_"):
        run_parallel(specs, tmp_path, jobs=2)


def test_only_the_small_model_is_run_side_by_side() -> None:
    assert default_jobs("embedded") >= 1
    assert default_jobs("openai/clip-vit-base-patch16") == default_jobs("embedded", "cuda") == 1
    assert default_jobs("embedded", "auto") == default_jobs("embedded", resolve_device("auto").type)
