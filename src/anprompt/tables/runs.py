"""Which records may stand in one table, and in which row.

Records of another protocol, backbone (by its weights), precision, number of shots or description file are
kept in tables of their own; what can't be told apart is refused rather than averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anprompt.errors import UserError
from anprompt.evaluation.statistics import Spread
from anprompt.experiments.protocols import PROTOCOLS
from anprompt.experiments.records import Record
from anprompt.tables.rows import label, shown_name, untrained
from anprompt.tables.sheet import Cell, Line

REFERENCE = "anprompt"


def topic_of(name: str) -> str:
    """The title of a protocol; its name where it is of another installation."""
    return PROTOCOLS[name].title if name in PROTOCOLS else name


def layout_of(name: str) -> str:
    """How the runs of a protocol are shown; in one table of its figures where nothing is known of it."""
    return PROTOCOLS[name].layout if name in PROTOCOLS else "figures"


Seeds = dict[int, float]  # one value a seed
Values = dict[str, dict[str, Seeds]]  # method -> data set -> seed -> value
Measure = Callable[[Record], "float | None"]


@dataclass(frozen=True)
class Batch:
    """Records that may be compared, sorted; `apart` tells what they differ in from other batches."""

    protocol: str
    records: tuple[Record, ...]
    apart: str = ""
    topic: str = ""

    def title(self, text: str = "") -> str:
        """What the batch is about, the sheet's own `text`, and what sets this batch apart."""
        topic = self.topic or topic_of(self.protocol)
        named = f"{topic}: {text}" if text else topic
        return f"{named} ({self.apart})" if self.apart else named


def batches(records: Iterable[Record]) -> list[Batch]:
    """Split by everything that makes figures incomparable, in a fixed order.

    Raises:
        UserError: records that claim the same place, or one place with other data or settings.
    """
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in sorted(records, key=_order):
        found.setdefault(_setting(record), []).append(record)
    made = []
    for key, group in sorted(found.items()):
        others = [other for other in found if other[0] == key[0]]
        apart = [part for at, part in enumerate(key) if len({other[at] for other in others}) > 1 and part]
        _refuse_mixtures(group)
        made.append(Batch(key[0], tuple(group), ", ".join(apart)))
    return made


def _setting(record: Record) -> tuple[str, ...]:
    """Protocol, then in words whatever must be the same within a table."""
    spec = record["spec"]
    few = spec["protocol"] in PROTOCOLS and PROTOCOLS[spec["protocol"]].compares_shots
    return (
        spec["protocol"], f"backbone {_backbone(record)}", spec.get("precision", "fp32"),
        "" if few else f"{shots_text(spec.get('shots'))} shots",
        f"descriptions {spec['descriptions']}" if spec.get("descriptions") else "",
        f"names {spec['names']}" if spec.get("names") else "",
    )  # fmt: skip


def _backbone(record: Record) -> str:
    backbone = record["backbone"]
    weights = str(backbone.get("weight_hash", ""))[:8]
    return f"{backbone['id']} (weights {weights})" if weights else str(backbone["id"])


def shots_text(shots: int | None) -> str:
    """`16`, or `all` for None."""
    return "all" if shots is None else str(shots)


def _order(record: Record) -> tuple[Any, ...]:
    spec = record["spec"]
    conditions = sorted(record["metrics"].get("conditions", {}))
    return (spec["dataset"], label(record), shots_order(spec.get("shots")), spec["seed"], conditions)


def shots_order(shots: int | None) -> float:
    """All pictures come last."""
    return float("inf") if shots is None else shots


def _refuse_mixtures(records: Sequence[Record]) -> None:
    """One data set has one content, one run one record, one row one set of settings."""
    data: dict[str, str | None] = {}
    taken: set[tuple[Any, ...]] = set()
    settings: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in records:
        spec, name = record["spec"], label(record)
        place = spec["dataset"], name, spec.get("shots")
        where = f"{name} on {shown_name(spec['dataset'])}"
        content = record.get("data", {}).get("hash")
        if data.setdefault(spec["dataset"], content) != content:
            raise UserError(
                f"The records of {shown_name(spec['dataset'])} are of different pictures or classes "
                "(the data hash differs); keep such runs in folders of their own."
            )
        if (*place, spec["seed"]) in taken:
            raise UserError(
                f"Two records of {where} have seed {spec['seed']} (other test conditions or targets, or a copied file); "
                "keep such runs in folders of their own."
            )
        taken.add((*place, spec["seed"]))
        own = _settings(record)
        known = settings.setdefault(place, own)
        odd = sorted(key for key in own.keys() & known.keys() if own[key] != known[key])
        if odd:
            raise UserError(
                f"The records of {where} were made with different settings ({odd[0]}: {known[odd[0]]} and "
                f"{own[odd[0]]}) under one name; keep such runs in folders of their own."
            )


def _settings(record: Record) -> dict[str, Any]:
    """What the method and its training were really run with, but for the seed."""
    method = record.get("method", {}).get("settings", {})
    train = {k: v for k, v in (record.get("train") or {}).items() if k != "seed"}
    return {**method, **train}


# --- rows -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Grid:
    """Runs by method, data set and seed, in the order in which they are shown.

    Attributes:
        methods: those with nothing to train first, the reference last.
        untrained: methods that no seed changes; their one run stands under seed 0.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    untrained: frozenset[str]
    runs: dict[str, dict[str, dict[int, Record]]]

    @classmethod
    def of(cls, records: Sequence[Record], reference: str = REFERENCE) -> Grid:
        """Of the records of a batch, one per method, data set and seed."""
        runs: dict[str, dict[str, dict[int, Record]]] = {}
        still = frozenset(label(record) for record in records if untrained(record))
        # of several runs that nothing changes, the one that measured most
        for record in sorted(records, key=lambda r: -_measured(r) if untrained(r) else 0):
            name, spec = label(record), record["spec"]
            seed = 0 if name in still else spec["seed"]
            runs.setdefault(name, {}).setdefault(spec["dataset"], {}).setdefault(seed, record)
        methods = sorted(runs, key=lambda name: (name not in still, name == reference, name))
        datasets = sorted({dataset for found in runs.values() for dataset in found})
        return cls(tuple(methods), tuple(datasets), still, {name: runs[name] for name in methods})

    def values(self, measure: Measure) -> Values:
        """One figure a run; runs that lack it are left out."""
        found: Values = {}
        for method, sets in self.runs.items():
            for dataset, seeds in sets.items():
                for seed, record in seeds.items():
                    value = measure(record)
                    if value is not None:
                        found.setdefault(method, {}).setdefault(dataset, {})[seed] = value
        return found


def _measured(record: Record) -> int:
    return len(record["metrics"].get("conditions", {}))


def spread(values: Values, method: str, dataset: str) -> Spread | None:
    """Over the seeds of a method on a data set; None where there is no run."""
    seeds = values.get(method, {}).get(dataset)
    return Spread.of(seeds.values()) if seeds else None


def average(values: Values, method: str, datasets: Sequence[str]) -> Seeds:
    """Per seed the mean over all data sets; seeds that one of them lacks do not count."""
    found = values.get(method, {})
    if not datasets or any(dataset not in found for dataset in datasets):
        return {}
    seeds = set.intersection(*(set(found[dataset]) for dataset in datasets))
    return {seed: statistics.fmean(found[d][seed] for d in datasets) for seed in sorted(seeds)}


def average_spread(values: Values, method: str, datasets: Sequence[str]) -> Spread | None:
    """Spread over seeds of the mean over all data sets; None where one is missing."""
    means = average(values, method, datasets)
    return Spread.of(means.values()) if means else None


# --- lines ----------------------------------------------------------------------------------------
def line_of(group: str, method: str, spreads: Sequence[Spread | None]) -> list[Line]:
    """One line; nothing where there is no run at all."""
    return [Line(group, method, tuple(map(Cell.of, spreads)))] if any(spreads) else []


def by_dataset(grid: Grid, values: Iterable[Values], line: Callable[..., list[Line]] = line_of) -> list[Line]:
    """A group for each data set, a line for each method, a column for each of the values."""
    columns = list(values)
    return [
        made
        for dataset in grid.datasets
        for method in grid.methods
        for made in line(shown_name(dataset), method, [spread(found, method, dataset) for found in columns])
    ]


# --- notes ----------------------------------------------------------------------------------------
def note(records: Sequence[Record], *sentences: str) -> str:
    """What the figures of a sheet are, then what backbone, data, seeds, shots and precision they have."""
    specs = [record["spec"] for record in records]
    sets = sorted({shown_name(spec["dataset"]) for spec in specs})
    seeds = sorted({spec["seed"] for spec in specs if "seed" in spec})
    shots = sorted({spec.get("shots") for spec in specs}, key=shots_order)
    backbones = sorted({_backbone(record) for record in records})
    precisions = sorted({spec.get("precision", "fp32") for spec in specs})
    facts = [
        f"Backbone {', '.join(backbones)}",
        f"{len(sets)} data set{'s' if len(sets) > 1 else ''} ({', '.join(sets)})",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        f"{', '.join(map(shots_text, shots))} shots",
        ", ".join(precisions),
    ]
    return " ".join([*sentences, "; ".join(facts) + "."])


def spread_note(records: Sequence[Record]) -> str:
    """What ± means, where anything has a spread."""
    trained = {record["spec"]["seed"] for record in records if not untrained(record)}
    still = any(untrained(record) for record in records)
    once = "A method with nothing to train runs once and has no spread." if still else ""
    if len(trained) > 1:
        return f"± is the standard deviation over seeds. {once}".strip()
    return "One seed, so no spread."
