"""What a run is: a protocol turns a specification into a run record.

A protocol is a function `(spec, lab, state, observe) -> record` in `PROTOCOLS`; the sweep, the records
and the tables know nothing else of it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from anprompt.backbones import Backbone, load_backbone
from anprompt.conditions import Condition
from anprompt.data.sources import open_dataset
from anprompt.data.splits import few_shot, subset_classes
from anprompt.data.types import Dataset
from anprompt.data.views import Views
from anprompt.errors import UserError, choices
from anprompt.evaluate import evaluate, harmonic_mean
from anprompt.methods import Classifier, Method, build_method, method_class, preset
from anprompt.results import (
    FORMAT,
    Record,
    data_hash,
    dataset_hash,
    hardware,
    metrics_entry,
    now,
    peak_memory_mb,
    spec_hash,
    versions,
)
from anprompt.train import TrainConfig, TrainLog, fit
from anprompt.tuning import make_views, match_descriptions, read_descriptions, wants_descriptions

KEPT_BYTES = 32 * 2**20

Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run's numbers; two equal specifications are the same run.

    Attributes:
        dataset: as `open_dataset` takes it.
        method: preset name.
        shots: pictures per class; None for all there are.
        settings, train: what replaces the preset's values, as (name, value) pairs.
        conditions: disturbed test conditions measured besides the clean one.
        descriptions: JSON file {class: [sentences]}; embedded sets bring their own.
        root: where data sets lie. It says where, not what, and is no part of the identity.
    """

    dataset: str
    method: str = "anprompt"
    protocol: str = "base-to-new"
    shots: int | None = 16
    seed: int = 1
    backbone: str = "embedded"
    precision: str = "fp32"
    settings: Pairs = ()
    train: Pairs = ()
    conditions: tuple[str, ...] = ()
    descriptions: str = ""
    root: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise choices("protocol", self.protocol, PROTOCOLS)
        preset(self.method, self.protocol)
        for condition in self.conditions:
            Condition.parse(condition)

    def identity(self) -> dict[str, Any]:
        """As plain JSON values; what the record's file name is a hash of."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "root"}
        values["settings"], values["train"] = dict(self.settings), dict(self.train)
        return json.loads(json.dumps(values))


@dataclass(frozen=True)
class Event:
    """Something that happened to a run of a sweep.

    Attributes:
        kind: "start", "step", "epoch", "evaluate", "done" or "skip" (its record was there).
        progress: share of the run's work that is done, 0..1.
        values: loss parts at steps and epochs.
    """

    spec: RunSpec
    kind: str
    progress: float = 0.0
    text: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    record: Record | None = None


Observer = Callable[[Event], None]


def silent(event: Event) -> None:
    """An observer that does nothing."""


class Lab:
    """Backbones and data sets, opened once and shared between the runs of a sweep."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._backbones: dict[str, Backbone] = {}
        self._datasets: dict[tuple[str, str | None], Dataset] = {}
        self._views: dict[tuple[Any, ...], Views] = {}

    def use(self, name: str, backbone: Backbone) -> None:
        """Give a loaded backbone for a specification's name."""
        self._backbones[name] = backbone

    def backbone(self, spec: RunSpec) -> Backbone:
        if spec.backbone not in self._backbones:
            self._backbones[spec.backbone] = load_backbone(spec.backbone, device=self.device)
        return self._backbones[spec.backbone]

    def dataset(self, spec: RunSpec) -> Dataset:
        key = spec.dataset, spec.root
        if key not in self._datasets:
            self._datasets[key] = open_dataset(spec.dataset, root=spec.root)
        return self._datasets[key]

    def test_views(
        self, spec: RunSpec, backbone: Backbone, half: Dataset, which: str, condition: Condition | None
    ) -> Views:
        """Test pictures of a half, disturbed; small ones stay for the next method on the same data set."""
        noise = condition if condition and condition.kind == "image" else None
        key = backbone.weight_hash, spec.dataset, spec.root, which, noise
        if key not in self._views:
            if self._views and next(iter(self._views))[:3] != key[:3]:
                self._views.clear()
            if noise:
                half = dataclasses.replace(half, read=noise.reader(half.read, backbone.dims.image_size))
            views = make_views(backbone, half, half.test, probe="eval")
            if len(views) * 3 * backbone.dims.image_size**2 > KEPT_BYTES:
                return views
            self._views[key] = views
        return self._views[key]

    def descriptions(self, spec: RunSpec, classnames: Sequence[str]) -> dict[str, list[str]]:
        """Sentences per class, from the given file or from the embedded data set; empty if none are read."""
        recipe = preset(spec.method, spec.protocol)
        config = method_class(recipe.method).Config.from_dict({**recipe.settings, **dict(spec.settings)})
        if not wants_descriptions(config):
            return {}
        kind, _, name = spec.dataset.partition(":")
        if spec.descriptions:
            known = read_descriptions(spec.descriptions)
        elif kind == "embedded":
            from anprompt.data.embedded import embedded_descriptions

            known = embedded_descriptions(name)
        else:
            raise UserError(
                f"{spec.method} reads class descriptions; give {{class: [sentences]}} with --descriptions."
            )
        return match_descriptions(known, tuple(classnames))


# --- base to new ----------------------------------------------------------------------------------
def base_to_new(spec: RunSpec, lab: Lab, *, state: Path | None = None, observe: Observer = silent) -> Record:
    """Train on the first half of the classes, test on that half and on the other, which no one trained on.

    The draw is made on the whole data set before it is halved, as the field does. Base pictures are told
    apart among base classes with the trained head, new pictures among new classes with the unseen head.

    Args:
        state: folder that an interrupted training goes on from.
    """
    backbone, dataset = lab.backbone(spec), lab.dataset(spec)
    drawn = few_shot(dataset, spec.shots, spec.seed)
    base, new = subset_classes(drawn, "base"), subset_classes(drawn, "new")
    method = build_method(
        spec.method, backbone, base.classnames, template=dataset.template, settings=dict(spec.settings),
        descriptions=lab.descriptions(spec, dataset.classnames), seed=spec.seed, protocol=spec.protocol,
        dataset=dataset.name, shots=spec.shots or 0,
    )  # fmt: skip
    config, train_log, skipped = train(spec, method, base, state, observe)
    started = time.perf_counter()
    metrics: dict[str, Any] = {"conditions": {}}
    for number, condition in enumerate([None, *map(Condition.parse, spec.conditions)]):
        done = number / (1 + len(spec.conditions))
        observe(Event(spec, "evaluate", done, condition.title if condition else "clean"))
        found: dict[str, Any] = {}
        for which, half in (("base", base), ("new", new)):
            found[which], left_out = measure(method, half, which, condition, spec, lab)
            skipped += left_out
        found["H"] = harmonic_mean(found["base"]["accuracy"], found["new"]["accuracy"])
        if condition is None:
            metrics.update(found)
        else:
            metrics["conditions"][str(condition)] = {**found, "seen_in_training": condition.seen_in_training}
    seconds = time.perf_counter() - started
    record = describe(spec, backbone, dataset, method, config, train_log, skipped)
    record["data"]["classes"] = {"base": len(base.classnames), "new": len(new.classnames)}
    record["data"]["train_pictures"] = len(base.train)
    record["timings"]["eval_s"] = round(seconds, 3)
    record["metrics"] = metrics
    return record


def train(
    spec: RunSpec, method: Method, base: Dataset, state: Path | None, observe: Observer
) -> tuple[TrainConfig | None, TrainLog, list[str]]:
    """Fit the method, unless it has nothing to train. Returns recipe, log and lines on skipped files."""
    if not method.trained_parameters():
        return None, TrainLog(), []
    recipe = preset(spec.method, spec.protocol, dataset=base.name, shots=spec.shots or 0)
    values = {**recipe.train, **dict(spec.train), "seed": spec.seed, "precision": spec.precision}
    config = cast(TrainConfig, TrainConfig.from_dict(values))
    views = make_views(method.backbone, base, base.train, config=config)

    def on_step(epoch: int, step: int, steps: int, parts: Mapping[str, Any]) -> None:
        done = (epoch + (step + 1) / steps) / config.epochs
        # reading a loss off its tensor waits for the device, so only now and then
        values = {k: float(v.detach()) for k, v in parts.items()} if step % 20 == 0 else {}
        observe(Event(spec, "step", done, f"epoch {epoch + 1}/{config.epochs}", values))

    def on_epoch(epoch: int, means: Mapping[str, float]) -> None:
        observe(
            Event(spec, "epoch", (epoch + 1) / config.epochs, f"epoch {epoch + 1}/{config.epochs}", means)
        )

    train_log = fit(method, views, config, state=state, on_step=on_step, on_epoch=on_epoch)
    return config, train_log, list(views.skipped)


def measure(
    method: Method, half: Dataset, which: str, condition: Condition | None, spec: RunSpec, lab: Lab
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Test accuracy on one half ("base" or "new"), and one line per file that could not be used."""
    if not half.test:
        raise UserError(f"{half.name} has no test pictures; give more pictures, or a test part.")
    names = half.classnames
    classifier = condition.classifier(method, names) if condition else Classifier(method, names)
    views = lab.test_views(spec, method.backbone, half, which, condition)
    metrics = evaluate(classifier, views, precision=spec.precision)
    entry = metrics_entry(metrics, [item.domain for item in views.items])
    return {**entry, "items_hash": data_hash(views.items)}, views.skipped


def describe(
    spec: RunSpec, backbone: Backbone, dataset: Dataset, method: Method, config: TrainConfig | None,
    train_log: TrainLog, skipped: Sequence[str],
) -> Record:  # fmt: skip
    """A record of everything but the metrics."""
    left_out = list(dict.fromkeys([*dataset.skipped, *skipped]))
    identity = spec.identity()
    return {
        "format": FORMAT,
        "spec": identity,
        "spec_hash": spec_hash(identity),
        "finished": now(),
        "method": {
            "preset": spec.method, "name": method.name, "paper": method.paper,
            "settings": method.config.to_dict(), "trained_parameters": method.trained_parameters(),
        },
        "train": config.to_dict() if config else None,
        "backbone": {
            "id": backbone.id, "weight_hash": backbone.weight_hash, **dataclasses.asdict(backbone.dims),
        },
        "data": {
            "name": dataset.name, "hash": dataset_hash(dataset), "template": dataset.template,
            "skipped": left_out[:100], "skipped_count": len(left_out),
        },
        "log": dataclasses.asdict(train_log),
        "timings": {
            "train_s": round(train_log.seconds, 3),
            "step_s": round(train_log.seconds / train_log.steps, 5) if train_log.steps else None,
        },
        "memory": {"peak_mb": round(peak_memory_mb(), 1)},
        "versions": versions(),
        "hardware": hardware(backbone.device),
    }  # fmt: skip


Protocol = Callable[..., Record]
PROTOCOLS: dict[str, Protocol] = {"base-to-new": base_to_new}
