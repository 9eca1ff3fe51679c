"""Callbacks: who is told what, in which order, under which name; the old keywords; steps for those who measure."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.training import loop
from anprompt.training.callbacks import OWN, Callback, Hooks, MeanLosses, Step, named
from anprompt.training.loop import NonFiniteLoss, Run, TrainConfig, fit, fit_many, trial_steps
from anprompt.training.state import FILE
from tests.fake_views import FakeViews

NAMES = ["cat", "red panda", "fire engine"]
CONFIG = TrainConfig(epochs=2, batch_size=2, lr=1e-2, warmup_epochs=1)  # of 7 images: three steps an epoch
EVENTS = ["on_train_begin", "on_epoch_begin", "on_step_end", "on_check", "on_epoch_end", "on_train_end"]


def build(backbone: Backbone) -> Method:
    return build_method("coop", backbone, NAMES, settings={"n_context": 2}, seed=1)


def views(backbone: Backbone, count: int = 7) -> FakeViews:
    return FakeViews(backbone.dims.image_size, count)


class Diary(Callback):
    """Writes down what it is told; may raise at an event."""

    def __init__(self, name: str = "", pages: list[tuple[str, ...]] | None = None, raises: Any = None) -> None:
        self.name, self.pages, self.raises = name, pages if pages is not None else [], raises or {}

    def _write(self, event: str, *facts: Any) -> None:
        self.pages.append((self.name, event, *map(str, facts)))
        if event in self.raises:
            raise self.raises[event]

    def on_train_begin(self, run: Run) -> None:
        self._write("on_train_begin")

    def on_epoch_begin(self, run: Run, epoch: int) -> None:
        self._write("on_epoch_begin", epoch)

    def on_step_end(self, run: Run, step: Step) -> None:
        self._write("on_step_end", step.epoch, step.number, step.count)

    def on_check(self, run: Run, step: Step) -> None:
        self._write("on_check", step.number)

    def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
        self._write("on_epoch_end", epoch, *figures)

    def on_train_end(self, run: Run) -> None:
        self._write("on_train_end", run.failure is not None)


def test_events_come_in_order(tiny_backbone: Backbone) -> None:
    diary = Diary()
    fit(build(tiny_backbone), views(tiny_backbone), CONFIG, validate=lambda: 0.5, callbacks=[diary])

    def epoch(number: int) -> list[tuple[str, ...]]:
        e = str(number)
        steps = [("", "on_step_end", e, str(step), "3") for step in range(3)]
        ends = [("", "on_check", "2"), ("", "on_epoch_end", e, "lr", "loss", "ce", "val_accuracy")]
        return [("", "on_epoch_begin", e), *steps, *ends]

    assert diary.pages == [("", "on_train_begin"), *epoch(0), *epoch(1), ("", "on_train_end", "False")]


def test_callbacks_are_told_in_the_order_of_the_list(tiny_backbone: Backbone) -> None:
    pages: list[tuple[str, ...]] = []
    fit(
        build(tiny_backbone), views(tiny_backbone), CONFIG, callbacks=[Diary("a", pages), ("second", Diary("b", pages))]
    )
    assert [page[0] for page in pages[:8]] == ["a", "b"] * 4
    assert {page[1] for page in pages} == set(EVENTS)


def test_a_run_has_its_own_callbacks_first(tiny_backbone: Backbone, tmp_path: Path) -> None:
    run = Run(build(tiny_backbone), views(tiny_backbone), CONFIG, state=tmp_path, validate=lambda: 0.0,
              on_step=lambda *a: None, callbacks=[Diary()])  # fmt: skip
    run.begin()
    assert [name for name, _ in run.callbacks] == [*OWN, "Diary"]


def test_what_callbacks_see_is_whole(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """At an epoch's end its state is on disk and the log has it; at a step's end gradients are there."""
    seen: list[Any] = []

    class Look(Callback):
        def on_step_end(self, run: Run, step: Step) -> None:
            assert all(p.grad is not None for p in run.method.parameters())
            assert not any(part.requires_grad for part in step.parts.values())
            assert run.optimizer.param_groups[0]["lr"] == run.config.lr_at(step.epoch)

        def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
            assert run.method.training and figures is run.log.epochs[epoch] and len(run.log.epochs) == epoch + 1
            seen.append((tmp_path / FILE).read_bytes())

    fit(build(tiny_backbone), views(tiny_backbone), CONFIG, state=tmp_path, validate=lambda: 0.5, callbacks=[Look()])
    assert len(seen) == 2 and seen[0] != seen[1]


@pytest.mark.parametrize("event", EVENTS)
def test_what_a_callback_raises_ends_the_training_and_a_resumed_run_equals_a_whole_one(
    tiny_backbone: Backbone, tmp_path: Path, event: str
) -> None:
    whole = build(tiny_backbone)
    fit(whole, views(tiny_backbone), CONFIG)
    with pytest.raises(ZeroDivisionError):
        fit(build(tiny_backbone), views(tiny_backbone), CONFIG, state=tmp_path,
            callbacks=[Diary(raises={event: ZeroDivisionError()})])  # fmt: skip
    resumed = build(tiny_backbone)
    log = fit(resumed, views(tiny_backbone), CONFIG, state=tmp_path)
    assert log.resumed_from == {"on_epoch_end": 1, "on_train_end": 2}.get(event, 0)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_old_keywords_and_callbacks_are_told_the_same(tiny_backbone: Backbone) -> None:
    old: list[Any] = []
    new: list[Any] = []

    class New(Callback):
        def on_step_end(self, run: Run, step: Step) -> None:
            new.append((step.epoch, step.number, step.count, {k: float(v) for k, v in step.parts.items()}))

        def on_epoch_end(self, run: Run, epoch: int, figures: dict[str, float]) -> None:
            new.append((epoch, dict(figures)))

    fit(
        build(tiny_backbone), views(tiny_backbone), CONFIG, callbacks=[New()],
        on_step=lambda e, n, c, parts: old.append((e, n, c, {k: float(v) for k, v in parts.items()})),
        on_epoch=lambda e, figures: old.append((e, dict(figures))),
    )  # fmt: skip
    assert old == new and len(old) == 2 * 4


def test_an_epochs_figures_are_the_means_of_its_steps(tiny_backbone: Backbone) -> None:
    steps: list[float] = []
    log = fit(build(tiny_backbone), views(tiny_backbone), CONFIG,
              callbacks=[Hooks(lambda e, n, c, parts: steps.append(float(parts["loss"])))])  # fmt: skip
    assert [e["loss"] for e in log.epochs] == pytest.approx([sum(steps[:3]) / 3, sum(steps[3:]) / 3])


def test_checks_come_now_and_then_and_at_the_end(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    diary = Diary()
    fit(build(tiny_backbone), views(tiny_backbone), dataclasses.replace(CONFIG, epochs=1), callbacks=[diary])
    assert [page[2] for page in diary.pages if page[1] == "on_check"] == ["1", "2"]


def test_all_see_the_step_that_breaks_and_the_end(tiny_backbone: Backbone) -> None:
    """The run beside it goes on; the curve of the broken one shows where it broke."""
    broken, sound = build(tiny_backbone), build(tiny_backbone)
    real = broken.loss
    broken.loss = lambda *args: {name: part * torch.inf for name, part in real(*args).items()}  # type: ignore[method-assign]
    one, other = Diary(), Diary()
    with pytest.raises(NonFiniteLoss, match=r"loss part 'ce' is NaN or Inf at epoch 1, step 1\."):
        fit_many([Run(broken, views(tiny_backbone), CONFIG, callbacks=[one]),
                  Run(sound, views(tiny_backbone), CONFIG, callbacks=[other])])  # fmt: skip
    assert [page[1] for page in one.pages].count("on_step_end") == 3 and one.pages[-1][1:] == ("on_train_end", "True")
    assert [page[1] for page in other.pages].count("on_epoch_end") == 2
    assert other.pages[-1][1:] == ("on_train_end", "False")
    fresh = build(tiny_backbone).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in broken.state_dict().items())


# --- names ----------------------------------------------------------------------------------------
def test_names_are_given_or_those_of_the_classes() -> None:
    found = named([Diary(), ("mine", Diary()), MeanLosses(), Diary(), Diary()])
    assert [name for name, _ in found] == ["Diary", "mine", "MeanLosses", "Diary_2", "Diary_3"]
    assert named([]) == []


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([("a", Diary()), ("a", Diary())], "the name 'a'"),
        ([Diary(), ("Diary", Diary())], "the name 'Diary'"),
        *[([(name, Diary())], f"the name '{name}'") for name in OWN],
        ([Diary], "the class Diary; make one of it"),
        ([print], "not <built-in function print>"),
        ([("a", print)], "not ('a', <built-in"),
        ([(1, Diary())], "not (1, "),
        ([("a", Diary(), 2)], "not ('a', "),
        ([None], "not None"),
    ],
)
def test_what_is_no_list_of_callbacks_is_refused_before_training(
    tiny_backbone: Backbone, callbacks: list[Any], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        fit(build(tiny_backbone), views(tiny_backbone), CONFIG, callbacks=callbacks)


# --- steps for those who measure --------------------------------------------------------------------
def test_trial_steps_are_the_runs_own_and_end_no_epoch(tiny_backbone: Backbone) -> None:
    losses: list[float] = []
    fit(build(tiny_backbone), views(tiny_backbone), CONFIG,
        on_step=lambda e, n, c, parts: losses.append(float(parts["loss"])))  # fmt: skip
    method = build(tiny_backbone)
    method.after_epoch = lambda *a: pytest.fail("an epoch ended")  # type: ignore[method-assign]
    before = {name: value.clone() for name, value in method.state_dict().items()}
    steps = trial_steps(method, views(tiny_backbone), CONFIG)
    assert all(torch.equal(value, method.state_dict()[name]) for name, value in before.items())  # begun, no step done
    first = list(itertools.islice(steps, 2))
    assert [(step.epoch, step.number, step.count) for step in first] == [(0, 0, 3), (0, 1, 3)]
    rest = list(steps)
    assert [float(step.parts["loss"]) for step in [*first, *rest]] == losses
