"""What a run record holds, key by key, and the check of one that was read.

`FORMAT` is the version of this schema. A key that goes, or means something else, makes a new version, which
`records` then reads beside the old ones; a new key does not. Accuracies, confidences and errors are in percent.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypedDict

FORMAT = 1


class _AlwaysInSpec(TypedDict):
    dataset: str
    method: str
    protocol: str
    seed: int


class SpecFacts(_AlwaysInSpec, total=False):
    """What was asked for: `RunSpec.identity`.

    Attributes:
        dataset: as `open_dataset` takes it.
        method: preset name.
        protocol: name of the protocol.
        shots: images per class; None for all.
        targets: data sets tested on besides, for protocols that have such.
        settings, train: what replaced the preset's values.
        descriptions: the file of sentences about the classes; empty for none.
        names: the file of class names; absent for none.
        attacks: threat models; absent for none.
        images: test images of a part at most; absent for all.
    """

    shots: int | None
    backbone: str
    precision: str
    settings: dict[str, Any]
    train: dict[str, Any]
    conditions: list[str]
    descriptions: str
    targets: list[str]
    names: str
    attacks: list[str]
    images: int


class MethodFacts(TypedDict, total=False):
    """The method that was trained, with all its settings; `new_classes` says what answers those it can't learn."""

    preset: str
    name: str
    paper: str
    settings: dict[str, Any]
    trained_parameters: int
    new_classes: str


class BackboneFacts(TypedDict, total=False):
    """The frozen model: where it was from, what its weights are, its sizes."""

    id: str
    weight_hash: str
    text_width: int
    vision_width: int
    embed: int
    text_depth: int
    vision_depth: int
    context_length: int
    image_size: int
    patch_size: int


class DataFacts(TypedDict, total=False):
    """The data set trained on; `classes` counts the classes of each part, `targets` describes the other data sets."""

    name: str
    hash: str
    template: str
    skipped: list[str]
    skipped_count: int
    train_pictures: int
    classes: dict[str, int]
    targets: dict[str, Any]


class LogFacts(TypedDict, total=False):
    """The course of the training: loss parts by epoch, steps, seconds."""

    epochs: list[dict[str, float]]
    steps: int
    seconds: float
    resumed_from: int


class Timings(TypedDict, total=False):
    """Seconds: of the training, of one of its steps (None without one), of all tests; of each attack by part."""

    train_s: float
    step_s: float | None
    eval_s: float
    attacks_s: dict[str, dict[str, float]]


class Memory(TypedDict, total=False):
    """Megabytes, of the process at its largest."""

    peak_mb: float


class Entry(TypedDict, total=False):
    """The test of one part under one condition.

    Attributes:
        accuracy, confidence, ece: in percent.
        pictures: number of test images.
        head: "trained" or "unseen".
        per_class, per_domain: accuracies in percent by name.
        labels, predicted: indices of classes, in the order of the items, with blanks between.
        items_hash: of the test images and their labels.
        unchanged: the condition does not reach this method; the entry is that of the clean test.
        threat: the threat model, where the test was attacked; `accuracy` is then what was left.
        clean, zero_gradients: accuracy before, share of exact zeros among first gradients, in percent.
        attacked_pictures: number of images that had to be attacked.
    """

    accuracy: float
    pictures: int
    head: str
    confidence: float
    ece: float
    per_class: dict[str, float]
    per_domain: dict[str, float]
    labels: str
    predicted: str
    items_hash: str
    unchanged: bool
    threat: dict[str, Any]
    clean: float
    zero_gradients: float
    attacked_pictures: int


class _AlwaysInRecord(TypedDict):
    spec: SpecFacts


class Record(_AlwaysInRecord, total=False):
    """One finished run.

    Attributes:
        format: `FORMAT` of the version that wrote it.
        spec_hash: sha256 of `spec`, which the file name bears.
        finished: UTC, ISO 8601.
        train: the training recipe in full; None where nothing was trained.
        metrics: entries (`Entry`) by the names that the protocol gives, and "conditions": the same by condition.
    """

    format: int
    spec_hash: str
    finished: str
    method: MethodFacts
    train: dict[str, Any] | None
    backbone: BackboneFacts
    data: DataFacts
    log: LogFacts
    timings: Timings
    memory: Memory
    versions: dict[str, str]
    hardware: dict[str, Any]
    metrics: dict[str, Any]


# A record of a protocol that adds parts to the schema (`anprompt.experiments.anomaly`), which are checked where they are read.
ExtendedRecord = dict[str, Any]


def first_fault(content: Mapping[str, Any], kind: Any = Record, where: str = "") -> str | None:
    """The first part that is missing or of another kind, in words; None where all is as the schema says.

    Args:
        content: plain values, as JSON gives them.
        kind: the schema.
        where: the name of what is checked, before the keys of its parts.

    Returns:
        `spec.seed must be int, not 'one'`, or None.
    """
    for key, wanted in typing.get_type_hints(kind).items():
        name = f"{where}.{key}" if where else key
        if key not in content:
            if key in kind.__required_keys__:
                return f"{name} is missing"
            continue
        if fault := _fault(content[key], wanted, name):
            return fault
    return None


def _fault(value: Any, wanted: Any, name: str) -> str | None:
    if typing.is_typeddict(wanted):
        return (
            first_fault(value, wanted, name) if isinstance(value, dict) else f"{name} must be dict, not {value!r:.40}"
        )
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if any(_is(value, option) for option in options):
        return None
    return f"{name} must be {' or '.join(map(_called, options))}, not {value!r:.40}"


def _is(value: Any, wanted: Any) -> bool:
    plain = typing.get_origin(wanted) or wanted
    if plain is Any:
        return True
    if plain is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, plain) and isinstance(value, bool) == (plain is bool)


def _called(wanted: Any) -> str:
    return "nothing" if wanted is type(None) else (typing.get_origin(wanted) or wanted).__name__
