"""Training of methods on frozen image features: every view is looked at once, then the method learns in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch

from anprompt.methods.base import Method
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Shots
from anprompt.prompting.compute import autocast
from anprompt.prompting.process_group import Team
from anprompt.training.callbacks import Callback, Callbacks, Step, named
from anprompt.training.feature_cache import FeatureCache
from anprompt.training.frozen_features import FrozenFeatures, TrainViews
from anprompt.training.nan_watch import NonFiniteLoss
from anprompt.training.state import TrainLog

BATCH = 100


class FeatureRecipe(Recipe, Protocol):
    """A recipe with what the looks at the views need as well."""

    @property
    def precision(self) -> str: ...
    @property
    def trunk_precision(self) -> str: ...
    @property
    def views(self) -> int: ...


class FeatureRun:
    """What callbacks may read of a training on features: the same names as a `training.loop.Run` has."""

    def __init__(
        self, method: Method, config: FeatureRecipe, told: Sequence[tuple[str, Callback]], team: Team | None
    ) -> None:
        self.method, self.config, self.callbacks, self.team = method, config, told, team
        self.log, self.failure = TrainLog(), None

    def tell(self, event: str, *facts: Any) -> None:
        """Let every callback know of an event."""
        for _, callback in self.callbacks:
            getattr(callback, event)(self, *facts)


def fit_features(
    method: Method,
    views: TrainViews,
    config: FeatureRecipe,
    *,
    validate: Callable[[], float] | None = None,
    callbacks: Callbacks = (),
    bank: FeatureCache | None = None,
    team: Team | None = None,
) -> TrainLog:
    """Train a method on frozen features in place; what it writes down is the log's one epoch.

    Nothing is kept to resume: features are in the bank where there is one, and the rest takes seconds.

    Args:
        validate, callbacks: as in `anprompt.training.loop.Run`; a step is a batch of views.
        bank: keeps the features of the views.
        team: the processes of the run; each does all of it, and the first one's tensors hold.

    Raises:
        NonFiniteLoss: what was learned is NaN or Inf.
    """
    learner = cast("FrozenFeatureMethod[Any]", method)
    run = FeatureRun(method, config, named(callbacks), team)
    started = time.perf_counter()
    run.tell("on_train_begin")
    shots = gather(learner, views, config, bank, run)
    figures = learner.fit_features(shots, config)
    if team:
        team.copy_first(method)
    if not all(bool(torch.isfinite(value).all()) for value in method.state_dict().values()):
        raise NonFiniteLoss(
            f"{method.name}: what was learned is not finite numbers; lower the learning rate (--set lr=...)."
        )
    method.eval()
    run.log.steps, run.log.seconds = look_count(views, config), time.perf_counter() - started
    run.log.epochs.append(dict(figures))
    if validate:
        run.log.epochs[0]["val_accuracy"] = validate()
    run.tell("on_epoch_end", 0, run.log.epochs[0])
    run.tell("on_train_end")
    return run.log


def look_count(views: TrainViews, config: FeatureRecipe) -> int:
    """How many batches of views are looked at."""
    return -(-len(views) // BATCH) * max(config.views, 1)


def trial_looks(method: Method, views: TrainViews, config: FeatureRecipe) -> Iterator[int]:
    """The looks of a training for those who measure them; nothing is learned."""
    looks = FrozenFeatures(method, views, config.precision, config.trunk_precision, parts="frozen")
    for number in range(look_count(views, config)):
        looks.batch(torch.arange(len(views)).split(BATCH)[number % -(-len(views) // BATCH)], number)
        yield number


def gather(
    method: FrozenFeatureMethod[Any], views: TrainViews, config: FeatureRecipe, bank: FeatureCache | None = None,
    run: FeatureRun | None = None,
) -> Shots:  # fmt: skip
    """The frozen features of all training views, and of the classes' sentences.

    As many views of an image as the recipe's `views` says, with 0 one: the first is the view that tests look at,
    the others are drawn by the recipe.
    """
    looks = FrozenFeatures(method, views, config.precision, config.trunk_precision, bank, parts="frozen")
    count, parts = max(config.views, 1), torch.arange(len(views)).split(BATCH)
    rows = []
    centred = hasattr(views, "eval_batch")
    for view in range(count):
        batches = []
        for number, indices in enumerate(parts):
            if view == 0 and centred:
                seen = looks.compute(views.eval_batch(indices))  # type: ignore[attr-defined]
            else:
                seen = looks.batch(indices, view - centred)
            batches.append(seen.frozen.float())
            if run:
                run.tell("on_step_end", Step(0, view * len(parts) + number, count * len(parts), {}))
        rows.append(torch.cat(batches))
    looks.flush()
    with torch.no_grad(), autocast(looks.device, config.precision):
        text = method.prepare(method.trained_classnames).frozen.float()
        raw = method.backbone.encode_text(method.sentences(method.trained_classnames)).float()
    return Shots(torch.stack(rows, dim=1), views.labels.to(looks.device), text, raw.norm(dim=-1))
