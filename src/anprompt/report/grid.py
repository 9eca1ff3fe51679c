"""Run records sorted by kind, and averages of them as the tables make them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.evaluation.statistics import Spread, harmonic_mean
from anprompt.experiments.records import Record
from anprompt.tables import CLEAN, conditions, in_order, label, labels, matched

HALVES = ("base", "new")
STYLES = 8  # marks and colours that can be told apart
Runs = dict[tuple[str, str], dict[int, Record]]  # (data set, method) -> seed -> record


@dataclass(frozen=True)
class Kinds:
    """Records by what they measured.

    Attributes:
        halves: base and new classes, clean and under noise; one per data set, method and seed.
        few_shot: all classes from few pictures.
        transfer: trained on one data set (or domain), tested on others.
        attacked: base and new classes under attack.
    """

    halves: list[Record]
    few_shot: list[Record]
    transfer: list[Record]
    attacked: list[Record]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Kinds:
        """Sort by the metrics that are there.

        Raises:
            UserError: a record without metrics; records of several backbones, which no chart can mix.
        """
        _refuse_mixtures(records)
        sorted_: dict[str, list[Record]] = {"attacks": [], "base": [], "all": [], "targets": [], "": []}
        for record in records:
            metrics = record.get("metrics")
            if not isinstance(metrics, dict):
                raise UserError(
                    f"The record of {label(record)} on {record['spec'].get('dataset')} has no metrics; "
                    "delete its file and run it again."
                )
            sorted_[next((key for key in ("attacks", "base", "all", "targets") if key in metrics), "")].append(record)
        return cls(merged(sorted_["base"]), sorted_["all"], sorted_["targets"], sorted_["attacks"])


def _refuse_mixtures(records: Sequence[Record]) -> None:
    ways = {
        "backbones": {
            f"{r['backbone']['id']} {str(r['backbone'].get('weight_hash', ''))[:8]}".strip() for r in records
        },
        "precisions": {str(r["spec"].get("precision")) for r in records},
        "description files": {str(r["spec"].get("descriptions") or "none") for r in records},
    }
    for what, found in ways.items():
        if len(found) > 1:
            raise UserError(
                f"The records are of several {what} ({', '.join(sorted(found))}); give each a folder and a page of its own."
            )


def merged(records: Iterable[Record]) -> list[Record]:
    """One record per run: where base-to-new and noise were measured apart, the one with more conditions.

    Runs that differ in shots, backbone or precision are not the same, and stay (tables refuse them).
    """
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        spec = record["spec"]
        way = label(record), *(spec.get(key) for key in ("dataset", "seed", "shots", "backbone", "precision"))
        before = found.get(way)
        if before is None or len(conditions([record])) > len(conditions([before])):
            found[way] = record
    return list(found.values())


def styles(records: Sequence[Record]) -> dict[str, int]:
    """A mark per method, the same in every chart: zero-shot 0, ANPrompt 1, then the others in order."""
    names = labels(records)
    first = [name for name in ("zeroshot", "anprompt") if name in names]
    start = {"zeroshot": 0, "anprompt": 1}
    rest = [name for name in names if name not in first]
    free = [n for n in range(STYLES) if n not in (0, 1)] if first else list(range(STYLES))
    return {name: start[name] if name in start else free[rest.index(name) % len(free)] for name in names}


class Grid:
    """Base and new accuracies on the data sets that all methods have, by method and condition.

    A value is what the tables print: per seed the mean over data sets, then mean and spread over the
    seeds that all data sets have. Where no data set has all methods there are no averages.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)
        self.methods = labels(records)
        self.fair = matched(self.records, self.methods)
        self.datasets = in_order(self.fair, "dataset")
        self._runs: Runs = {}
        for record in self.fair:
            cell = self._runs.setdefault((record["spec"]["dataset"], label(record)), {})
            cell[record["spec"]["seed"]] = record

    @classmethod
    def all_sets(cls, records: Sequence[Record]) -> Grid:
        """With data sets that lack a method too; for cells, not for averages."""
        grid = cls(records)
        grid.datasets = in_order(grid.records, "dataset")
        for record in grid.records:
            cell = grid._runs.setdefault((record["spec"]["dataset"], label(record)), {})
            cell[record["spec"]["seed"]] = record
        return grid

    def runs(self, dataset: str, method: str) -> dict[int, Record]:
        """The records of a cell by seed."""
        return self._runs.get((dataset, method), {})

    def pairs(self, method: str, condition: str = CLEAN) -> dict[int, tuple[float, float]]:
        """Per seed the averages of base and new accuracy; empty where a data set lacks the condition."""
        per_set = []
        for dataset in self.datasets:
            found = {seed: measured(r, condition) for seed, r in self.runs(dataset, method).items()}
            per_set.append({seed: pair for seed, pair in found.items() if pair})
        if not per_set:
            return {}
        seeds = sorted(set.intersection(*map(set, per_set)))
        return {
            seed: tuple(statistics.fmean(cells[seed][half] for cells in per_set) for half in (0, 1))  # type: ignore[misc]
            for seed in seeds
        }

    def spread(self, method: str, what: str, condition: str = CLEAN) -> Spread | None:
        """Mean and spread over seeds of "base", "new" or "h" (H of the averages)."""
        pairs = self.pairs(method, condition).values()
        if not pairs:
            return None
        if what == "h":
            return Spread.of(harmonic_mean(*pair) for pair in pairs)
        return Spread.of(pair[HALVES.index(what)] for pair in pairs)

    def mean(self, method: str, what: str, wanted: Sequence[str]) -> float | None:
        """Mean over conditions; None where one of them was not measured."""
        found = [self.spread(method, what, condition) for condition in wanted]
        known = [spread.mean for spread in found if spread is not None]
        return statistics.fmean(known) if known and len(known) == len(found) else None


def noise_grid(records: Sequence[Record]) -> Grid:
    """Of the records that have conditions; where none has, of all."""
    return Grid([record for record in records if conditions([record])] or records)


def measured(record: Record, condition: str) -> tuple[float, float] | None:
    """Base and new accuracy under a condition, or None."""
    metrics = record["metrics"]
    if condition != CLEAN:
        metrics = metrics.get("conditions", {}).get(condition)
    return (metrics["base"]["accuracy"], metrics["new"]["accuracy"]) if metrics else None


def families(names: Iterable[str], kind: str) -> dict[str, list[Condition]]:
    """Conditions of a kind ("image" or "text") by family, by rising strength."""
    found: dict[str, list[Condition]] = {}
    for condition in map(Condition.parse, names):
        if condition.kind == kind:
            found.setdefault(condition.family, []).append(condition)
    return {family: sorted(row, key=lambda c: c.strength) for family, row in found.items()}
