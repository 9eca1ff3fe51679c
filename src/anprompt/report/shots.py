"""All classes from few pictures: curves over the number of shots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from anprompt.evaluation.statistics import Spread
from anprompt.experiments.records import Record
from anprompt.report import charts, markup, plots
from anprompt.tables import in_order, label, labels, nice, shown_name

MANY = 4  # curves from which intervals would hide each other


def few_shot(records: Sequence[Record], styles: dict[str, int]) -> str:
    """Curves over the shots, on average and per data set; empty for one number of shots."""
    if not records:
        return ""
    datasets, methods = in_order(records, "dataset"), labels(records)
    shots = sorted({record["spec"]["shots"] for record in records}, key=lambda n: (n is None, n))
    key = charts.legend([nice(m) for m in methods], {nice(m): styles[m] for m in methods})
    mean = _panel("average over data sets", records, datasets, shots, styles) if len(datasets) > 1 else ""
    each = "".join(_panel(shown_name(d), records, [d], shots, styles) for d in datasets)
    if not mean and not each:
        return ""
    text = "Accuracy on all classes in percent by the number of training pictures per class (shots)."
    if mean:
        each = markup.fold("Every data set", f'{key}<div class="grid">{each}</div>')
    return markup.note(text) + key + (mean or "") + (each if mean else f'<div class="grid">{each}</div>')


def shot_spread(records: Sequence[Record], datasets: Sequence[str], method: str, shots: int | None) -> Spread | None:
    """Mean and spread over the seeds that all data sets have, of the mean over data sets.

    What trains nothing has no shots: its one run counts for all of them.
    """
    per_set = []
    for dataset in datasets:
        own = [r for r in records if r["spec"]["dataset"] == dataset and label(r) == method]
        found = [r for r in own if r["spec"]["shots"] == shots]
        if not found and not any(r["log"]["steps"] for r in own):
            found = own[:1]
        per_set.append({r["spec"]["seed"]: r["metrics"]["all"]["accuracy"] for r in found})
    seeds = set.intersection(*map(set, per_set)) if per_set else set()
    return Spread.of(statistics.fmean(found[seed] for found in per_set) for seed in sorted(seeds)) if seeds else None


def _panel(
    title: str, records: Sequence[Record], datasets: Sequence[str], shots: Sequence[int | None],
    styles: dict[str, int],
) -> str:  # fmt: skip
    curves = []
    for method in labels(records):
        found = [(float(i), shot_spread(records, datasets, method, n)) for i, n in enumerate(shots)]
        known = [(x, s) for x, s in found if s is not None]
        x, y, halves = [x for x, _ in known], [s.mean for _, s in known], [s.half for _, s in known]
        whiskers = halves if len(labels(records)) <= MANY else []
        curves.append(plots.Curve(nice(method), styles[method], x, y, whiskers))
    ticks = [(float(i), "all" if n is None else str(n)) for i, n in enumerate(shots)]
    return plots.chart(title, curves, ticks, "shots") if len(shots) > 1 else ""
