"""Charts as inline SVG. Text stays HTML, so it is readable at any width; only marks are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Series = Mapping[str, Sequence[float]]
Groups = Sequence[tuple[str, Sequence[tuple[str, Sequence[float]]]]]


def scale(values: Sequence[float], step: float = 10.0) -> tuple[float, float]:
    """A range of whole steps around the values, at least one step wide, within 0..100."""
    low = max(0.0, math.floor((min(values) - 1) / step) * step)
    high = min(100.0, math.ceil((max(values) + 1) / step) * step)
    return low, max(high, low + step)


def dumbbells(groups: Groups, methods: Sequence[str]) -> str:
    """Per group and line one dot a method on a common axis in percent, from the first to the last a bar.

    Args:
        groups: (heading, [(line label, one value per method)]).
    """
    values = [value for _, lines in groups for _, row in lines for value in row]
    if not values:
        return ""
    low, high = scale(values)

    def at(value: float) -> str:
        return f"{3 + 94 * (value - low) / (high - low):.2f}%"

    parts = ['<div class="dumbbells">']
    for heading, lines in groups:
        parts.append(f'<div class="group"><h3>{escape(heading)}</h3>')
        for label, row in lines:
            parts.append(_dumbbell(label, row, methods, at))
        parts.append("</div>")
    ticks = "".join(f'<span style="left:{at(tick)}">{tick:g}</span>' for tick in _ticks(low, high))
    parts.append(
        f'<div class="line axis" aria-hidden="true"><span></span><div class="ticks">{ticks}</div></div></div>'
    )
    return "".join(parts)


def _dumbbell(label: str, row: Sequence[float], methods: Sequence[str], at) -> str:
    told = ", ".join(f"{method} {value:.1f} %" for method, value in zip(methods, row))
    marks = ['<line class="rail" x1="3%" x2="97%" y1="12" y2="12"/>']
    if len(row) > 1:
        rise = "up" if row[-1] >= row[0] else "down"
        marks.append(f'<line class="bar {rise}" x1="{at(row[0])}" x2="{at(row[-1])}" y1="12" y2="12"/>')
    marks += [f'<circle class="m{index}" cx="{at(value)}" cy="12" r="6"/>' for index, value in enumerate(row)]
    change = signed(row[-1] - row[0]) if len(row) > 1 else f"{row[0]:.1f}"
    return (
        f'<div class="line"><span class="label">{escape(label)}</span>'
        f'<svg role="img" aria-label="{escape(label)}: {escape(told)}" width="100%" height="24">{"".join(marks)}</svg>'
        f'<span class="change">{change}</span></div>'
    )


def signed(value: float) -> str:
    """A change with its sign, as it is typeset; nothing is ever minus zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 if high - low <= 60 else 20.0
    first = math.ceil(low / step) * step
    return [first + step * i for i in range(int((high - first) // step) + 1)]


def legend(names: Sequence[str], kind: str = "m") -> str:
    """The names beside their marks; `kind` "m" for methods (dots), "s" for curves (strokes)."""
    mark = (
        '<circle class="{0}" cx="8" cy="8" r="6"/>'
        if kind == "m"
        else '<line class="curve {0}" x1="0" x2="16" y1="8" y2="8"/>'
    )
    items = "".join(
        f'<li><svg width="16" height="16" aria-hidden="true">{mark.format(f"{kind}{index % 6}")}</svg>{escape(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def curves(title: str, series: Series, width: int = 220, height: int = 90) -> str:
    """One small panel: a curve per name over the epochs, with its lowest and highest value beside it."""
    values = [value for row in series.values() for value in row if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    lines = []
    for index, (name, row) in enumerate(series.items()):
        last = max(len(row) - 1, 1)
        points = " ".join(
            f"{width * i / last:.1f},{4 + (height - 8) * (1 - (value - low) / span):.1f}"
            for i, value in enumerate(row)
            if math.isfinite(value)
        )
        lines.append(
            f'<polyline class="curve s{index % 6}" points="{points}"><title>{escape(name)}</title></polyline>'
        )
    told = f"{title}: " + "; ".join(
        f"{name} from {row[0]:.3g} to {row[-1]:.3g}" for name, row in series.items() if row
    )
    epochs = max(len(row) for row in series.values())
    return (
        f'<figure class="panel"><figcaption>{escape(title)}</figcaption>'
        f'<div class="plot"><div class="y" aria-hidden="true"><span>{high:.3g}</span><span>{low:.3g}</span></div>'
        f'<svg role="img" aria-label="{escape(told)}" viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
        f"{''.join(lines)}</svg></div>"
        f'<div class="x" aria-hidden="true"><span>epoch 1</span><span>{epochs}</span></div></figure>'
    )
