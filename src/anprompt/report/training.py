"""Loss curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from anprompt.experiments.records import Record
from anprompt.report import charts, markup
from anprompt.tables import label, labels, nice, shown_name

PARTS = {
    "lr": "learning rate", "loss": "whole loss", "ce": "cross-entropy, z", "ce_rep": "cross-entropy, z_rep",
    "sim_image": "distance of image features", "sim_text": "distance of text features", "wa": "WALoss",
}  # fmt: skip
APART = 6  # curves in a panel that can be told apart


def losses(records: Sequence[Record]) -> str:
    """A panel per loss part, a curve per data set; for several methods a fold each."""
    trained = [record for record in records if record["log"]["epochs"]]
    methods = labels(trained)
    found = {m: _panels([r for r in trained if label(r) == m]) for m in methods}
    if len(methods) == 1:
        return found[methods[0]]
    return "".join(markup.fold(nice(m), html, opened=not i) for i, (m, html) in enumerate(found.items()))


def _panels(records: Sequence[Record]) -> str:
    """One method's; of several seeds (or shots) the first is drawn."""
    by_set: dict[str, list[dict[str, float]]] = {}
    for record in records:
        by_set.setdefault(shown_name(record["spec"]["dataset"]), record["log"]["epochs"])
    parts = list(dict.fromkeys(part for epochs in by_set.values() for epoch in epochs for part in epoch))
    panels = ""
    for part in parts:
        series = {name: [e[part] for e in epochs if part in e] for name, epochs in by_set.items()}
        series = {name: row for name, row in series.items() if row}
        if len(by_set) > APART:
            series = {f"mean of {len(series)} data sets": mean_curve(list(series.values()))}
        panels += charts.curves(PARTS.get(part, part), series)
    if not panels:
        return ""
    key = charts.legend(list(by_set), kind="s") if len(by_set) <= APART else ""
    told = "" if key else markup.note(f"Mean over {len(by_set)} data sets, first seed.")
    return f'{key}{told}<div class="panels">{panels}</div>'


def mean_curve(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean by epoch, as far as every curve goes; values that are not finite are left out."""
    means = []
    for values in zip(*rows):
        finite = [value for value in values if math.isfinite(value)]
        means.append(statistics.fmean(finite) if finite else math.nan)
    return means
