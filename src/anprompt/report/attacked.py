"""Under attack: what is left of accuracy by the size of the attack, for base and new classes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from anprompt.experiments.protocols.adversarial import by_size, left
from anprompt.experiments.protocols.base_to_new import HALVES
from anprompt.experiments.records import Record
from anprompt.report import charts, markup, plots
from anprompt.tables import label, labels, nice

SAYS = (
    "Accuracy in percent under every attack of a size at once: an image counts if it is right as it is and withstands all "
    "of them. It is an upper bound, for this size and norm alone; the attacks stand below. Pixels in [0, 1] at the model's "
    "input size."
)


def attacked(records: Sequence[Record], styles: dict[str, int]) -> str:
    """Curves over the sizes, for each norm and half; empty without records."""
    sizes = list(dict.fromkeys(size for record in records for size in by_size(record["metrics"]["attacks"])))
    norms = list(dict.fromkeys(size.split()[0] for size in sizes))
    key = charts.legend([nice(m) for m in labels(records)], {nice(m): styles[m] for m in labels(records)})
    drawn = ""
    for norm in norms:
        own = [size for size in sizes if size.split()[0] == norm]
        panels = {half: [curve(records, method, half, own, styles) for method in labels(records)] for half in HALVES}
        shown = [one for curves in panels.values() for one in curves if one.y]
        ticks = [(0.0, "clean"), *((float(at), size.split()[1]) for at, size in enumerate(own, 1))]
        html = "".join(
            plots.chart(f"{half} classes, {norm}", curves, ticks, "size of the attack", plots.around(shown))
            for half, curves in panels.items()
            if shown
        )
        drawn += f'<div class="grid">{html}</div>' if html else ""
    return markup.note(SAYS) + key + drawn if drawn else ""


def curve(
    records: Sequence[Record], method: str, half: str, sizes: Sequence[str], styles: dict[str, int]
) -> plots.Curve:
    """A method's mean over the data sets that all sizes have, clean first."""
    own = [record for record in records if label(record) == method]
    points = [(0.0, [record["metrics"][half]["accuracy"] for record in own])]
    for at, size in enumerate(sizes, 1):
        found = [(record["metrics"], by_size(record["metrics"]["attacks"]).get(size, [])) for record in own]
        points.append((float(at), [left(metrics, half, names) for metrics, names in found if names]))
    known = [(x, statistics.fmean(values)) for x, values in points if values and len(values) == len(own)]
    return plots.Curve(nice(method), styles[method], [x for x, _ in known], [y for _, y in known])
