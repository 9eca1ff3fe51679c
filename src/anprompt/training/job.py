"""One tuning run, from a data set and a backbone to a trained method.

The command line and `PromptClassifier` both go this way, so the same request gives the same adapter.
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
from typing import Any, cast

from anprompt.backbones import Backbone
from anprompt.data.identity import identities
from anprompt.data.name_lists import warn_of_codes
from anprompt.data.names import class_key
from anprompt.data.splits import few_shot, subset_classes, with_classes
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError, choices
from anprompt.evaluation.evaluate import Metrics, evaluate
from anprompt.evaluation.loaders import make_views, part_items
from anprompt.methods import Classifier, Method, MethodConfig, build_method, method_class, preset
from anprompt.prompting.compute import threads_for
from anprompt.prompting.process_group import Team
from anprompt.training.callbacks import Callbacks
from anprompt.training.config import TrainConfig
from anprompt.training.feature_cache import ViewBank
from anprompt.training.loop import EpochHook, StepHook, TrainLog, fit
from anprompt.utils.files import read_json

log = logging.getLogger("anprompt")

VAL_SHOTS = 4


@dataclass(frozen=True)
class Job:
    """Everything that decides a tuning run.

    Attributes:
        dataset: drawn and cut to its classes already.
        method: preset name.
        descriptions: sentences by class name; empty where the method reads none.
    """

    dataset: Dataset
    backbone: Backbone
    method: str
    settings: MethodConfig
    train: TrainConfig
    template: str
    descriptions: Mapping[str, list[str]] = field(default_factory=dict)

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
            str(self.backbone.dtype),
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
    descriptions: Mapping[str, Any] | None = None,
) -> Job:
    """Check a request and fill in its preset.

    Args:
        method: preset name.
        shots: pictures per class; None for all.
        classes: "all", or "base"/"new" for the field's halves.
        settings, train: values that replace the preset's.
        template: None takes the data set's own.
        descriptions: sentences by class, for methods that read them.

    Raises:
        UserError: whatever of it can't be done.
    """
    recipe = preset(method)
    method_config = method_class(recipe.method).Config.from_dict({**recipe.settings, **(settings or {})})
    train_config = cast(TrainConfig, TrainConfig.from_dict({**recipe.train, **(train or {}), "seed": seed}))
    drawn = few_shot(dataset, shots, seed)
    if shots is None:  # validation after every epoch stays small
        drawn = dataclasses.replace(drawn, val=few_shot(dataset, VAL_SHOTS, seed).val)
    drawn = _trainable(subset_classes(drawn, classes))
    if len(drawn.classnames) < 2:
        raise UserError(
            f"{dataset.name}: training needs at least two classes; {classes!r} leaves {len(drawn.classnames)}."
        )
    if not drawn.train:
        raise UserError(f"{dataset.name} has no pictures to train on.")
    warn_of_codes(drawn.classnames, template if template is not None else dataset.template)
    known = match_descriptions(descriptions, drawn.classnames) if descriptions is not None else {}
    return Job(
        drawn, backbone, method, method_config, train_config, template if template is not None else dataset.template,
        known,
    )  # fmt: skip


def _trainable(dataset: Dataset) -> Dataset:
    """Without the classes that have no training images: they would count as trained, and are not."""
    held = {item.label for item in dataset.train}
    kept = [name for label, name in enumerate(dataset.classnames) if label in held]
    if not kept or len(kept) == len(dataset.classnames):
        return dataset
    out = [name for label, name in enumerate(dataset.classnames) if label not in held]
    lost = sum(item.label not in held for item in dataset.test)
    log.warning(
        "%s: left out of training and of the test, as without training images: %s (%d test images)",
        dataset.name, ", ".join(out[:5]) + (f", ... ({len(out)} classes)" if len(out) > 5 else ""), lost,
    )  # fmt: skip
    return with_classes(dataset, kept)


def split_settings(method: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`--set` values apart: those of the method's config and those of the training.

    Raises:
        UserError: a key of neither; the nearest is named.
    """
    of_method = method_class(preset(method).method).Config().to_dict()
    of_train = {key: value for key, value in dataclasses.asdict(TrainConfig()).items() if key != "seed"}
    of_train = {key: list(value) if isinstance(value, tuple) else value for key, value in of_train.items()}
    settings: dict[str, Any] = {}
    train: dict[str, Any] = {}
    for key, value in values.items():
        if key not in of_method and key not in of_train:
            raise choices(f"setting of {method}", key, [*sorted(of_method), *sorted(of_train)])
        table, default = (settings, of_method[key]) if key in of_method else (train, of_train[key])
        # One word given for a list is a list of one.
        table[key] = [value] if isinstance(default, list) and not isinstance(value, list) else value
    return settings, train


def run(
    job: Job,
    *,
    state: Path | None = None,
    on_step: StepHook | None = None,
    on_epoch: EpochHook | None = None,
    callbacks: Callbacks = (),
    bank: ViewBank | None = None,
    team: Team | None = None,
) -> Tuned:
    """Train a method as the job says, and measure it on the validation part where there is one.

    Args:
        state, on_step, on_epoch, callbacks: see `training.loop.Run`.
        bank: keeps what the frozen encoder makes of the training views.
        team: the processes that share the run, each with the same job.
    """
    data, config = job.dataset, job.train
    method = build_method(
        job.method, job.backbone, data.classnames, template=job.template, descriptions=job.descriptions,
        settings=job.settings.to_dict(), seed=config.seed,
    )  # fmt: skip
    views = make_views(job.backbone, data, data.train, config=config)
    views.fingerprint = job.key
    validate = None
    skipped = list(views.skipped)
    if data.val:
        val_views = make_views(job.backbone, data, data.val, probe="eval")
        skipped += val_views.skipped

        def validate() -> float:
            return evaluate(Classifier(method), val_views, precision=config.precision, team=team).accuracy

    with threads_for(job.backbone):
        log = fit(
            method,
            views,
            config,
            state=state,
            validate=validate,
            on_step=on_step,
            on_epoch=on_epoch,
            callbacks=callbacks,
            bank=bank,
            team=team,
        )
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


# --- descriptions ---------------------------------------------------------------------------------
def wants_descriptions(config: MethodConfig) -> bool:
    """Whether these settings make a method read class descriptions."""
    return any(value == "descriptions" for value in config.to_dict().values())


def read_descriptions(path: str | Path) -> dict[str, list[str]]:
    """A JSON file {class: [sentences]}.

    Raises:
        UserError: no such file, no JSON, or another form.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or not content:
        raise UserError(f"{str(path)!r} must hold {{class: [sentences]}}, not {_kind(content)}.")
    for name, sentences in content.items():
        sound = isinstance(sentences, list) and sentences and all(isinstance(s, str) for s in sentences)
        # The field's files begin some sentences with a line break; blanks are not a fault.
        if not sound or not all(s.split() and " ".join(s.split()).isprintable() for s in sentences):
            raise UserError(f"{str(path)!r}: class {name!r} needs a list of sentences in plain words.")
    return {name: [" ".join(s.split()) for s in sentences] for name, sentences in content.items()}


def _kind(value: Any) -> str:
    return "an empty one" if value == {} else f"a {type(value).__name__}"


def match_descriptions(
    descriptions: Mapping[str, list[str]], classnames: tuple[str, ...]
) -> dict[str, list[str]]:
    """The descriptions of these classes, whatever case and underscores the file's names have.

    Raises:
        UserError: a class has none.
    """

    by_name = {class_key(name): list(sentences) for name, sentences in descriptions.items()}
    missing = [name for name in classnames if class_key(name) not in by_name]
    if missing:
        more = f" and of {len(missing) - 1} more classes" if len(missing) > 1 else ""
        raise UserError(
            f"The descriptions lack those of class {missing[0]!r}{more}; add a list of sentences."
        )
    return {name: by_name[class_key(name)] for name in classnames}
