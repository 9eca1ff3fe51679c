"""Charts with axes as inline SVG: lines over strengths or shots, and base against new accuracy.

The drawing is about as wide as a phone and is never scaled far beyond, so that its words stay readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anprompt.report.charts import SHAPES, described, mark, scale, ticks
from anprompt.report.markup import escape

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 40


class Curve(NamedTuple):
    """One method's values; `halves` are half-widths of 95 % intervals, None where there is none."""

    name: str
    style: int
    x: Sequence[float]
    y: Sequence[float]
    halves: Sequence[float | None] = ()


class Point(NamedTuple):
    """Base and new accuracy; with `start` a stroke is drawn from there."""

    name: str
    style: int
    base: float
    new: float
    half_base: float | None = None
    half_new: float | None = None
    start: tuple[float, float] | None = None


class _Frame:
    """The plot's area: from values to places, its grid and its axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x_range, self.y_range = x, y

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1.0)

    def axes(self, x_ticks: Sequence[tuple[float, str]], x_name: str) -> str:
        parts = []
        for value in ticks(*self.y_range):
            y = self.y(value)
            parts.append(f'<line class="rail" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value, text in x_ticks:
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
        return "".join(parts)


def chart(
    title: str, curves: Sequence[Curve], x_ticks: Sequence[tuple[float, str]], x_name: str,
    y_range: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Lines with a mark at every value; empty where there are none.

    Args:
        x_ticks: (place, words) along the bottom.
        y_range: lowest and highest percent; by default around the values.
    """
    drawn = [curve for curve in curves if curve.y]
    if not drawn:
        return ""
    places = [place for place, _ in x_ticks]
    pad = 0.06 * ((max(places) - min(places)) or 1.0)
    frame = _Frame((min(places) - pad, max(places) + pad), y_range or around(drawn))
    shapes = "".join(_curve(curve, frame) for curve in drawn)
    words = dict(x_ticks)
    told = "; ".join(
        f"{c.name}: " + ", ".join(f"{words.get(x, f'{x:g}')}: {y:.1f} %" for x, y in zip(c.x, c.y)) for c in drawn
    )
    return _figure(title, told, frame.axes(x_ticks, x_name) + shapes)


def around(curves: Sequence[Curve]) -> tuple[float, float]:
    """A common range for several charts."""
    values = [value for curve in curves for value in curve.y]
    return scale(values, 5.0 if max(values) - min(values) < 15 else 10.0)


def _curve(curve: Curve, frame: _Frame) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in zip(curve.x, curve.y)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    bars = "".join(
        f'<line class="whisker s{curve.style % SHAPES}" x1="{frame.x(x):.1f}" x2="{frame.x(x):.1f}" '
        f'y1="{frame.y(min(y + half, frame.y_range[1])):.1f}" y2="{frame.y(max(y - half, frame.y_range[0])):.1f}"/>'
        for x, y, half in zip(curve.x, curve.y, curve.halves)
        if half is not None
    )
    marks = "".join(mark(curve.style, x, y, 4) for x, y in points)
    return (
        f"<g><title>{escape(curve.name)}</title>{bars}"
        f'<polyline class="curve s{curve.style % SHAPES}" points="{line}"/>{marks}</g>'
    )


def scatter(title: str, points: Sequence[Point], *, r: float = 6.0) -> str:
    """New over base accuracy, with dashed lines of equal H."""
    if not points:
        return ""
    starts = [point.start for point in points if point.start]
    x = _range([point.base for point in points] + [start[0] for start in starts])
    y = _range([point.new for point in points] + [start[1] for start in starts])
    frame = _Frame(x, y)
    marks = "".join(_point(point, frame, r) for point in points)
    told = "; ".join(f"{p.name}: base {p.base:.1f} %, new {p.new:.1f} %" for p in points)
    x_ticks = [(value, f"{value:g}") for value in ticks(*x)]
    inside = frame.axes(x_ticks, "base accuracy, % (upwards: new accuracy, %)") + _equal_h(frame) + marks
    return _figure(title, told, inside)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return scale(values, 2.0 if max(values) - min(values) < 8 else 5.0)


def _point(point: Point, frame: _Frame, r: float) -> str:
    x, y = frame.x(point.base), frame.y(point.new)
    stroke = f'class="whisker s{point.style % SHAPES}"'
    parts = [f"<g><title>{escape(point.name)}: base {point.base:.1f} %, new {point.new:.1f} %</title>"]
    if point.half_base is not None and point.half_new is not None:
        left, right = (_clip(point.base + s * point.half_base, frame.x_range) for s in (-1, 1))
        low, high = (_clip(point.new + s * point.half_new, frame.y_range) for s in (-1, 1))
        parts.append(f'<line {stroke} x1="{frame.x(left):.1f}" x2="{frame.x(right):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<line {stroke} x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(low):.1f}" y2="{frame.y(high):.1f}"/>')
    if point.start:
        x0, y0 = frame.x(point.start[0]), frame.y(point.start[1])
        parts.append(f'<line {stroke} x1="{x0:.1f}" y1="{y0:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="m0" cx="{x0:.1f}" cy="{y0:.1f}" r="2.5"/>')
    return "".join(parts) + mark(point.style, x, y, r) + "</g>"


def _clip(value: float, within: tuple[float, float]) -> float:
    return min(max(value, within[0]), within[1])


def _equal_h(frame: _Frame) -> str:
    """Curves `new = H base / (2 base - H)` at round H, with H at their right end."""
    (x0, x1), (y0, y1) = frame.x_range, frame.y_range
    parts = []
    corners = [2 * x * y / (x + y) for x, y in ((x0, y0), (x1, y1)) if x + y]
    for h in ticks(min(corners), max(corners), 6) if len(corners) == 2 else []:
        line = [(x0 + (x1 - x0) * i / 60) for i in range(61)]
        inside = [(x, h * x / (2 * x - h)) for x in line if 2 * x > h]
        inside = [(x, y) for x, y in inside if y0 <= y <= y1]
        if len(inside) < 2:
            continue
        points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in inside)
        parts.append(f'<polyline class="equal" points="{points}"/>')
        x, y = frame.x(inside[-1][0]), frame.y(inside[-1][1])
        parts.append(f'<text class="faint" x="{x - 2:.1f}" y="{y - 3:.1f}" text-anchor="end">H {h:g}</text>')
    return "".join(parts)


def _figure(title: str, told: str, inside: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{described(title, told)}{inside}</svg></figure>'
    )
