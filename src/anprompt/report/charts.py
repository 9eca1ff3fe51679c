"""Marks, scales, legends and the small charts, as inline SVG.

Every method has one colour and one shape throughout a page, so that neither is needed alone. Words stay
HTML where they can, so that they are readable at any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from anprompt.report.markup import escape

Series = Mapping[str, Sequence[float]]
Groups = Sequence[tuple[str, Sequence[tuple[str, Sequence[float]]]]]
SHAPES = 8


def mark(style: int, x: float, y: float, r: float = 5.0) -> str:
    """The shape of a style, its centre at (x, y)."""
    kind = style % SHAPES
    if kind < 2:
        return f'<circle class="m{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'
    outlines: dict[int, Sequence[tuple[float, float]]] = {
        2: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        3: [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        4: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        5: [(0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
        6: [(-0.35, -1.2), (0.35, -1.2), (0.35, -0.35), (1.2, -0.35), (1.2, 0.35), (0.35, 0.35), (0.35, 1.2),
            (-0.35, 1.2), (-0.35, 0.35), (-1.2, 0.35), (-1.2, -0.35), (-0.35, -0.35)],
        7: [(0, -0.5), (0.7, -1.2), (1.2, -0.7), (0.5, 0), (1.2, 0.7), (0.7, 1.2), (0, 0.5), (-0.7, 1.2),
            (-1.2, 0.7), (-0.5, 0), (-1.2, -0.7), (-0.7, -1.2)],
    }  # fmt: skip
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in outlines[kind])
    return f'<polygon class="m{kind}" points="{points}"/>'


def described(title: str, text: str) -> str:
    """What a screen reader says of a chart."""
    return f"<title>{escape(title)}</title><desc>{escape(text)}</desc>"


def scale(values: Sequence[float], step: float = 10.0) -> tuple[float, float]:
    """A range of whole steps around the values, at least one step wide, within 0..100."""
    low = max(0.0, math.floor((min(values) - 1) / step) * step)
    high = min(100.0, math.ceil((max(values) + 1) / step) * step)
    return low, max(high, low + step)


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values within a range of percent."""
    step = next(s for s in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if (high - low) / s < most or s == 50.0)
    first = math.ceil(low / step) * step
    return [first + step * i for i in range(int((high - first) // step) + 1)]


def signed(value: float, decimals: int = 1) -> str:
    """A change with its sign, as it is typeset; nothing is ever minus zero."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def legend(names: Sequence[str], styles: Mapping[str, int] | None = None, kind: str = "m") -> str:
    """The names beside their marks; `kind` "m" for methods (shapes), "s" for curves (strokes)."""
    items = ""
    for index, name in enumerate(names):
        style = styles[name] if styles else index
        drawn = (
            mark(style, 8, 8, 5.5)
            if kind == "m"
            else f'<line class="curve s{style % SHAPES}" x1="0" x2="16" y1="8" y2="8"/>'
        )
        items += f'<li><svg width="16" height="16" aria-hidden="true">{drawn}</svg>{escape(name)}</li>'
    return f'<ul class="legend">{items}</ul>'


# --- one dot a method on a line -------------------------------------------------------------------
def dumbbells(groups: Groups, methods: Sequence[str], styles: Mapping[str, int] | None = None) -> str:
    """Per group and line one dot a method on a common axis in percent, from the first to the last a bar.

    Args:
        groups: (heading, [(line label, one value per method)]).
        styles: the methods' marks; by default in their order.
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
            parts.append(_dumbbell(label, row, methods, styles or {}, at))
        parts.append("</div>")
    shown = ticks(low, high)
    marks = "".join(f'<span style="left:{at(tick)}">{tick:g}</span>' for tick in shown)
    parts.append(f'<div class="line axis" aria-hidden="true"><span></span><div class="ticks">{marks}</div></div></div>')
    return "".join(parts)


def _dumbbell(
    label: str, row: Sequence[float], methods: Sequence[str], styles: Mapping[str, int], at: Callable[[float], str]
) -> str:
    told = ", ".join(f"{method} {value:.1f} %" for method, value in zip(methods, row))
    marks = ['<line class="rail" x1="3%" x2="97%" y1="12" y2="12"/>']
    if len(row) > 1:
        rise = "up" if row[-1] >= row[0] else "down"
        marks.append(f'<line class="bar {rise}" x1="{at(row[0])}" x2="{at(row[-1])}" y1="12" y2="12"/>')
    marks += [
        f'<circle class="m{styles.get(methods[index], index) % SHAPES}" cx="{at(value)}" cy="12" r="6"/>'
        for index, value in enumerate(row)
    ]
    change = signed(row[-1] - row[0]) if len(row) > 1 else f"{row[0]:.1f}"
    return (
        f'<div class="line"><span class="label">{escape(label)}</span>'
        f'<svg role="img" aria-label="{escape(label)}: {escape(told)}" width="100%" height="24">{"".join(marks)}</svg>'
        f'<span class="change">{change}</span></div>'
    )


# --- small panels ---------------------------------------------------------------------------------
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
            f'<polyline class="curve s{index % SHAPES}" points="{points}"><title>{escape(name)}</title></polyline>'
        )
    told = f"{title}: " + "; ".join(f"{name} from {row[0]:.3g} to {row[-1]:.3g}" for name, row in series.items() if row)
    epochs = max(len(row) for row in series.values())
    return (
        f'<figure class="panel"><figcaption>{escape(title)}</figcaption>'
        f'<div class="plot"><div class="y" aria-hidden="true"><span>{high:.3g}</span><span>{low:.3g}</span></div>'
        f'<svg role="img" aria-label="{escape(told)}" viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
        f"{''.join(lines)}</svg></div>"
        f'<div class="x" aria-hidden="true"><span>epoch 1</span><span>{epochs}</span></div></figure>'
    )
