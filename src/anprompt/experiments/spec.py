"""What a run is, and what happens to one while it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anprompt.attacks.threat import ThreatModel
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.protocols import protocol
from anprompt.experiments.records import Record
from anprompt.methods import get_preset

Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run's numbers; two equal specifications are the same run.

    Attributes:
        dataset: as `open_dataset` takes it.
        method: preset name.
        shots: pictures per class; None for all there are.
        settings, train: what replaces the preset's values, as (name, value) pairs.
        conditions: disturbed test conditions measured besides the clean one; without any, those of the protocol.
        descriptions: JSON file {class: [sentences]}; embedded sets bring their own.
        names: file of class names for data whose classes are numbers or codes, as `named` takes it.
        attacks: attacks that are run besides, as `ThreatModel.parse` reads them; without any, those of the protocol.
        images: test images of a part at most, where the protocol has a budget; 0 for all.
        targets: data sets that are tested on and not trained on, for protocols that have such.
        root: where data sets lie. It says where, not what, and is not a part of the identity.
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
    names: str = ""
    targets: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    images: int = 0
    root: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        usual = protocol(self.protocol).conditions(self.has_descriptions)
        get_preset(self.method, self.recipe)
        if usual and not self.conditions:
            object.__setattr__(self, "conditions", usual)
        for condition in self.conditions:
            Condition.parse(condition)
        asked = self.attacks or protocol(self.protocol).attacks()
        object.__setattr__(self, "attacks", tuple(dict.fromkeys(str(ThreatModel.parse(text)) for text in asked)))

    @property
    def recipe(self) -> str:
        """The protocol whose training recipe holds."""
        return protocol(self.protocol).recipe or self.protocol

    @property
    def has_descriptions(self) -> bool:
        """Whether sentences about the classes are known: from a file, or with the embedded sets."""
        return bool(self.descriptions) or self.dataset.startswith("embedded:")

    def identity(self) -> dict[str, Any]:
        """As plain JSON values; what the record's file name is a hash of."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "root"}
        for later in ("targets", "names", "attacks", "images"):  # records from before there were any stay valid
            if not values[later]:
                del values[later]
        values["settings"], values["train"] = dict(self.settings), dict(self.train)
        return json.loads(json.dumps(values))


@dataclass(frozen=True)
class Event:
    """Something that happened to a run of a sweep.

    Attributes:
        kind: "start", "step", "epoch", "evaluate", "done", "skip" (its record was there) or "failed".
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
