"""One tuning run, from a data set and a backbone to a trained method.

`anprompt fit`, `anprompt bench` and `PromptClassifier` all go this way, so the same request gives the same tensors
and has the same fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from anprompt.backbones import Backbone
from anprompt.data.identity import identities
from anprompt.data.label_names import warn_of_codes
from anprompt.data.splits import few_shot, subset_classes, with_classes
from anprompt.data.types import Dataset, Item
from anprompt.data.views import Views
from anprompt.errors import UserError
from anprompt.evaluation.evaluate import Metrics, evaluate
from anprompt.evaluation.loaders import make_views, part_items
from anprompt.methods import Classifier, Method, MethodConfig, create_method
from anprompt.prompting.compute import threads_for
from anprompt.prompting.process_group import Team
from anprompt.training.callbacks import Callbacks
from anprompt.training.config import TrainConfig
from anprompt.training.descriptions import match_descriptions
from anprompt.training.feature_cache import FeatureCache
from anprompt.training.loop import EpochHook, StepHook, TrainLog, fit
from anprompt.training.settings import RECIPE, Settings, resolve

log = logging.getLogger("anprompt")

VAL_SHOTS = 4


@dataclass(frozen=True)
class Job:
    """Everything that decides a tuning run.

    Attributes:
        dataset: drawn and cut to its classes already.
        backbone: the frozen model.
        resolved: the method with its settings, and how it is trained.
        template: a sentence with one "{}" for the class name.
        descriptions: sentences by class name; empty where the method reads none.
        left_out: classes of the chosen ones that have no training images, and are not in `dataset`.
        auto: whether part of the settings is chosen on the training images first (`training.auto`).
    """

    dataset: Dataset
    backbone: Backbone
    resolved: Settings
    template: str
    descriptions: Mapping[str, list[str]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    auto: bool = False

    @property
    def method(self) -> str:
        """Name of the preset."""
        return self.resolved.preset

    @property
    def settings(self) -> MethodConfig:
        """The method's settings."""
        return self.resolved.method

    @property
    def train(self) -> TrainConfig:
        """The training recipe."""
        return self.resolved.train

    @property
    def trains(self) -> bool:
        """Whether the method has something to train."""
        return self.resolved.cls.trains

    def create(self) -> Method[Any]:
        """The method, untrained."""
        return create_method(
            self.method, self.backbone, self.dataset.classnames, template=self.template,
            descriptions=self.descriptions, settings=self.settings, seed=self.train.seed,
        )  # fmt: skip

    def training_views(self) -> Views:
        """The views that it is trained on; those who resume know them by the job's key."""
        views = make_views(self.backbone, self.dataset, self.dataset.train, config=self.train)
        views.fingerprint = self.key
        return views

    @cached_property
    def key(self) -> str:
        """Fingerprint of the run, its images by their content; two runs with equal keys give equal adapters."""
        return self._key(identities(self._drawn))

    def is_run(self, key: object) -> bool:
        """Whether a fingerprint is this run's; images of official lists were known by their paths before."""
        if key == self.key:
            return True
        return all(item.listed for item in self._drawn) and key == self._key([item.path for item in self._drawn])

    @property
    def _drawn(self) -> tuple[Item, ...]:
        return (*self.dataset.train, *self.dataset.val)

    def _key(self, names: Sequence[str]) -> str:
        items = [(name, item.label) for name, item in zip(names, self._drawn)]
        facts = [
            self.method, self.settings.to_dict(), self.train.to_dict(), self.template, items,
            list(self.dataset.classnames), dict(self.descriptions), self.backbone.weight_hash,
            str(self.backbone.dtype), *(["auto"] if self.auto else []),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Tuned:
    """A trained method, how it went, and one line per picture that could not be used."""

    method: Method
    log: TrainLog
    skipped: tuple[str, ...]


def plan(
    dataset: Dataset,
    backbone: Backbone,
    *,
    method: str = "anprompt",
    shots: int | None = 16,
    seed: int = 1,
    classes: str = "all",
    settings: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    template: str | None = None,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    recipe: str = RECIPE,
) -> Job:
    """Check a request and fill in its preset.

    The draw is made on the whole data set before it is halved, as the field does.

    Args:
        dataset: with all its classes and images.
        backbone: the frozen model.
        method: preset name.
        shots: images per class; None for all.
        seed: of the draw, the start, the order and the views.
        classes: "all", or "base"/"new" for the field's halves.
        settings, train: values that replace the preset's.
        template: None takes the data set's own.
        descriptions: sentences by class, for methods that read them; None takes the data set's own where it has some.
        recipe: the protocol whose tables of the preset hold.

    Returns:
        The job, from which a method is created and trained.

    Raises:
        UserError: whatever of it can't be done.
    """
    resolved = resolve(
        method, recipe=recipe, dataset=dataset.name, shots=shots, seed=seed, settings=settings, train=train
    )
    drawn = few_shot(dataset, shots, seed)
    if shots is None:  # validation after every epoch stays small
        drawn = dataclasses.replace(drawn, val=few_shot(dataset, VAL_SHOTS, seed).val)
    drawn = subset_classes(drawn, classes)
    left_out: tuple[str, ...] = ()
    if resolved.cls.trains:
        drawn, left_out = _trainable(drawn)
        if len(drawn.classnames) < 2:
            raise UserError(
                f"{dataset.name}: training needs at least two classes; {classes!r} leaves {len(drawn.classnames)}."
            )
        if not drawn.train:
            raise UserError(f"{dataset.name} has no pictures to train on.")
    template = dataset.template if template is None else template
    warn_of_codes(drawn.classnames, template)
    return Job(drawn, backbone, resolved, template, _told(resolved, dataset, drawn, descriptions), left_out)


def _told(
    resolved: Settings, dataset: Dataset, drawn: Dataset, descriptions: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """The sentences about the classes that are trained on; none for a method that reads none."""
    if not resolved.reads_descriptions:
        return {}
    known = dataset.known_descriptions() if descriptions is None else descriptions
    if known is None:
        raise UserError(
            f"{resolved.preset} reads class descriptions; give {{class: [sentences]}} with --descriptions "
            "(descriptions= in Python)."
        )
    return match_descriptions(known, drawn.classnames)


def _trainable(dataset: Dataset) -> tuple[Dataset, tuple[str, ...]]:
    """Without the classes that have no training images, and which these are: they would count as trained, and are not."""
    held = {item.label for item in dataset.train}
    kept = [name for label, name in enumerate(dataset.classnames) if label in held]
    if not kept or len(kept) == len(dataset.classnames):
        return dataset, ()
    out = tuple(name for label, name in enumerate(dataset.classnames) if label not in held)
    lost = sum(item.label not in held for item in dataset.test)
    log.warning(
        "%s: left out of training and of the test, as without training images: %s (%d test images)",
        dataset.name, ", ".join(out[:5]) + (f", ... ({len(out)} classes)" if len(out) > 5 else ""), lost,
    )  # fmt: skip
    return with_classes(dataset, kept), out


def run(
    job: Job,
    *,
    state: Path | None = None,
    on_step: StepHook | None = None,
    on_epoch: EpochHook | None = None,
    callbacks: Callbacks = (),
    bank: FeatureCache | None = None,
    team: Team | None = None,
    validate: bool = True,
) -> Tuned:
    """Train a method as the job says, and measure it on the validation part where there is one.

    Args:
        job: see `plan`.
        state, on_step, on_epoch, callbacks: see `training.loop.Run`.
        bank: keeps what the frozen encoder makes of the training views.
        team: the processes that share the run, each with the same job.
        validate: False leaves the validation part alone.

    Returns:
        The trained method, its log, and what could not be used.

    Raises:
        UserError: see `training.loop.fit`.
    """
    method, views = job.create(), job.training_views()
    skipped = list(views.skipped)
    score_validation: Callable[[], float] | None = None
    if validate and job.dataset.val:
        val_views = make_views(job.backbone, job.dataset, job.dataset.val, probe="eval")
        skipped += val_views.skipped

        def score_validation() -> float:
            return evaluate(Classifier(method), val_views, precision=job.train.precision, team=team).accuracy

    with threads_for(job.backbone):
        log = fit(
            method, views, job.train, state=state, validate=score_validation, on_step=on_step, on_epoch=on_epoch,
            callbacks=callbacks, bank=bank, team=team,
        )  # fmt: skip
    return Tuned(method, log, tuple(skipped))


def score(
    method: Method,
    dataset: Dataset,
    *,
    part: str = "test",
    domain: str | None = None,
    head: str = "auto",
    on_batch: Callable[[int, int], None] | None = None,
    team: Team | None = None,
) -> tuple[Metrics, tuple[str, ...]]:
    """Metrics of a method on one part of a data set, and one line per picture that could not be used."""
    items = part_items(dataset, part, domain)
    classifier = Classifier(method, dataset.classnames, head)
    views = make_views(method.backbone, dataset, items, probe="eval")
    return evaluate(classifier, views, on_batch=on_batch, team=team), views.skipped
