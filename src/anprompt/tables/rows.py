"""Base and new accuracy of records as rows: per data set, and both averages.

All accuracies are in percent. H is the harmonic mean of base and new accuracy. Over several data sets
there are two: of the average accuracies (what the field's papers print), and the average of each data
set's own H. Both are given and named.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from anprompt.errors import UserError
from anprompt.evaluation.statistics import Spread, harmonic_mean
from anprompt.experiments.records import Record

CLEAN = "clean"
MEAN, MEAN_H = "average (H of the averages)", "average (average of the H)"


@dataclass(frozen=True)
class Row:
    """One method on one data set (or on average) under one condition."""

    dataset: str
    method: str
    condition: str
    base: Spread
    new: Spread
    h: Spread

    @property
    def seeds(self) -> int:
        return self.base.n


Pair = tuple[float, float]  # base and new accuracy of one run
Runs = dict[int, Pair]  # by seed


def base_new(record: Record, condition: str = CLEAN) -> Pair:
    """Base and new accuracy of a run, on clean pictures or under one of its conditions."""
    metrics = record["metrics"] if condition == CLEAN else record["metrics"]["conditions"][condition]
    return metrics["base"]["accuracy"], metrics["new"]["accuracy"]


def conditions(records: Iterable[Record]) -> list[str]:
    """Conditions that any of the records has, in their order, without "clean"."""
    return list(dict.fromkeys(name for record in records for name in record["metrics"].get("conditions", {})))


def in_order(records: Iterable[Record], key: str) -> list[str]:
    """The values of a specification's key in the order of first appearance."""
    specs: Iterable[Mapping[str, Any]] = (record["spec"] for record in records)
    return list(dict.fromkeys(str(spec[key]) for spec in specs))


def shown_name(dataset: str) -> str:
    """A data set as a table names it."""
    return dataset.removeprefix("embedded:")


NICE = {
    "zeroshot": "zero-shot CLIP", "coop": "CoOp", "cocoop": "CoCoOp", "maple": "MaPLe", "promptsrc": "PromptSRC",
    "mmrl": "MMRL", "mmrlpp": "MMRL++", "anprompt": "ANPrompt", "ivlp": "IVLP", "vpt": "VPT", "nap": "NAP-Tuning", "advpt": "AdvPT", "fap": "FAP",
    "adv-coop": "AdvCoOp", "adv-maple": "AdvMaPLe", "adv-ivlp": "AdvIVLP", "adv-vpt": "AdvVPT", "adv-mmrl": "AdvMMRL",
    "adv-anprompt": "AdvANPrompt", "linear-probe": "linear probe", "ncm": "class means",
    "tip-adapter": "Tip-Adapter", "tip-adapter-f": "Tip-Adapter-F", "clip-adapter": "CLIP-Adapter", "lp++": "LP++",
    "clap": "CLAP",
}  # fmt: skip


def nice(method: str) -> str:
    """A method, its label in a table, or a pair of them, as papers write them."""
    return " ".join(NICE.get(word, word) for word in method.split(" "))


def label(record: Record) -> str:
    """The method as a table names it: its preset, and whatever was set differently."""
    spec = record["spec"]
    changed = [
        f"{key}={value}" for part in (spec.get("settings", {}), spec.get("train", {})) for key, value in part.items()
    ]
    return spec["method"] + (f" ({', '.join(changed)})" if changed else "")


def labels(records: Iterable[Record]) -> list[str]:
    """All labels in the order of first appearance."""
    return list(dict.fromkeys(map(label, records)))


def untrained(record: Record) -> bool:
    """Whether a run's method had nothing to train, so that seeds and shots change nothing."""
    return record.get("method", {}).get("trained_parameters") == 0


def select(records: Iterable[Record], dataset: str, method: str, condition: str) -> Runs:
    """The runs of one data set, method and condition, by seed; the one of what no seed changes, under 0.

    Raises:
        UserError: two records claim the same seed, so a mean over them would count one twice.
    """
    runs: Runs = {}
    for record in records:
        spec = record["spec"]
        if spec["dataset"] != dataset or label(record) != method:
            continue
        if condition != CLEAN and condition not in record["metrics"].get("conditions", {}):
            continue
        still = untrained(record)
        seed = 0 if still else spec["seed"]
        if seed in runs and not still:
            raise UserError(
                f"Two records of {method} on {dataset} have seed {spec['seed']} (other shots, backbone or "
                "precision); keep such runs in folders of their own."
            )
        runs.setdefault(seed, base_new(record, condition))
    return runs


def base_new_rows(records: Sequence[Record], condition: str = CLEAN) -> list[Row]:
    """Rows per data set and method, then the two averages per method over data sets that share seeds."""
    rows: list[Row] = []
    datasets, methods = in_order(records, "dataset"), labels(records)
    found = {(d, m): select(records, d, m, condition) for d in datasets for m in methods}
    for dataset in datasets:
        for method in methods:
            runs = found[dataset, method]
            if runs:
                rows.append(_row(shown_name(dataset), method, condition, runs, harmonic_mean))
    if len(datasets) > 1:
        for average in (_h_of_averages, _average_of_h):
            for method in methods:
                rows += average(method, condition, [found[dataset, method] for dataset in datasets])
    return rows


def _row(dataset: str, method: str, condition: str, runs: Runs, h: Callable[[float, float], float]) -> Row:
    return Row(
        dataset, method, condition,
        Spread.of(base for base, _ in runs.values()),
        Spread.of(new for _, new in runs.values()),
        Spread.of(h(base, new) for base, new in runs.values()),
    )  # fmt: skip


def _averages(sets: Sequence[Runs]) -> Runs:
    """Per seed the mean over all data sets; a seed that one of them lacks does not count."""
    seeds = set.intersection(*(set(runs) for runs in sets))
    return {
        seed: (statistics.fmean(r[seed][0] for r in sets), statistics.fmean(r[seed][1] for r in sets))
        for seed in sorted(seeds)
    }


def _h_of_averages(method: str, condition: str, sets: Sequence[Runs]) -> list[Row]:
    means = _averages(sets)
    return [_row(MEAN, method, condition, means, harmonic_mean)] if means else []


def _average_of_h(method: str, condition: str, sets: Sequence[Runs]) -> list[Row]:
    means = _averages(sets)
    if not means:
        return []
    h = [statistics.fmean(harmonic_mean(*runs[seed]) for runs in sets) for seed in means]
    row = _row(MEAN_H, method, condition, means, harmonic_mean)
    return [Row(row.dataset, method, condition, row.base, row.new, Spread.of(h))]


def condition_rows(records: Sequence[Record]) -> list[Row]:
    """What `base_new_rows` gives on average (or for the only data set), for clean and each condition."""
    rows: list[Row] = []
    for condition in [CLEAN, *conditions(records)]:
        found = base_new_rows(records, condition)
        means = [row for row in found if row.dataset == MEAN]
        rows += means or found
    return rows


def matched(records: Sequence[Record], methods: Sequence[str]) -> list[Record]:
    """The records of data sets on which every one of the methods has a run, for a fair average."""
    have = {(record["spec"]["dataset"], label(record)) for record in records}
    return [r for r in records if all((r["spec"]["dataset"], m) in have for m in methods)]


# --- as text --------------------------------------------------------------------------------------
HEADER = ("data", "method", "base", "new", "H", "seeds")


def cells(row: Row) -> tuple[str, ...]:
    """A row as strings, in the order of `HEADER`."""
    return row.dataset, row.method, row.base.text(), row.new.text(), row.h.text(), str(row.seeds)


def markdown(rows: Sequence[Row], note: str = "") -> str:
    """A Markdown table; `note` goes below it."""

    def line(values: Iterable[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

    lines = [line(HEADER), "|---|---|--:|--:|--:|--:|", *(line(cells(row)) for row in rows)]
    return "\n".join(lines) + "\n" + (f"\n{note}\n" if note else "")


def terminal(rows: Sequence[Row], title: str = "", first_column: str = HEADER[0]) -> Table:
    """A table for rich, a rule between data sets."""
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate((first_column, *HEADER[1:])):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    for index, row in enumerate(rows):
        first = index == 0 or rows[index - 1].dataset != row.dataset
        if first and index:
            table.add_section()
        values = [Text(cell) for cell in cells(row)]  # as it is: no markup, no emoji codes
        table.add_row(values[0] if first else "", *values[1:])
    return table


def as_csv(rows: Sequence[Row]) -> str:
    """All figures unrounded: mean, standard deviation and half of the 95 % interval of each column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ("base", "new", "h")
    writer.writerow(
        ["data", "method", "condition", "seeds", *(f"{c}_{k}" for c in columns for k in ("mean", "std", "ci95"))]
    )
    for row in rows:
        spreads = (row.base, row.new, row.h)
        figures = ["" if value is None else f"{value:.6f}" for s in spreads for value in (s.mean, s.std, s.half)]
        writer.writerow([row.dataset, row.method, row.condition, row.seeds, *figures])
    return out.getvalue()


def markdown_note(records: Sequence[Record]) -> str:
    """One line on what the figures are."""
    shots = ", ".join(in_order(records, "shots"))
    backbone = ", ".join(dict.fromkeys(record["backbone"]["id"] for record in records))
    return (
        f"Accuracy in percent, {shots} shots, backbone {backbone}; mean ± standard deviation over seeds. "
        "Zero-shot has nothing to draw, so it is run once."
    )
