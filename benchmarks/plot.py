"""Seconds against number of classes as an SVG, from the JSON that `benchmarks/speed.py` writes.

python benchmarks/plot.py benchmarks/results/speed.json benchmarks/results/speed.svg
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from anprompt.utils.files import write_text

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP = 360, 240, 52, 34
STROKES = {"field": "#a33b20", "shared": "#1f6f8b", "bank": "#3a7d44"}


def place(value: float, low: float, high: float, length: float) -> float:
    """Position on a logarithmic axis."""
    return length * math.log(value / low) / math.log(high / low)


def powers(low: float, high: float) -> list[float]:
    return [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def panel(title: str, lines: Mapping[str, Points], shift: float) -> str:
    """One chart: seconds (upwards) against classes, both logarithmic."""
    xs, ys = ([p[i] for points in lines.values() for p in points] for i in (0, 1))
    rows, columns = powers(min(ys), max(ys)), (min(xs) / 1.2, max(xs) * 1.2)

    def at(x: float, y: float) -> tuple[float, float]:
        up = place(y, rows[0], rows[-1], HEIGHT)
        return LEFT + place(x, *columns, WIDTH), TOP + HEIGHT - up

    out = [f'<g transform="translate({shift},0)"><text x="{LEFT}" y="18" font-weight="600">{title}</text>']
    for y in rows:
        _, v = at(xs[0], y)
        out.append(f'<path d="M{LEFT} {v:.1f}h{WIDTH}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{v + 4:.1f}" text-anchor="end">{y:g} s</text>')
    for x in sorted(set(xs)):
        u, _ = at(x, rows[0])
        out.append(f'<text x="{u:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{x:g}</text>')
    for name, points in lines.items():
        path = " ".join(f"{u:.1f},{v:.1f}" for u, v in (at(*p) for p in points))
        colour, (u, v) = STROKES.get(name, "#555"), at(*points[-1])
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{u - 4:.1f}" y="{v - 7:.1f}" fill="{colour}" text-anchor="end">{name}</text>')
    return "".join([*out, "</g>"])


def lines_of(rows: Sequence[Mapping]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, seconds in row["seconds"].items():
            found.setdefault(name, []).append((row["classes"], seconds))
    return {name: sorted(points) for name, points in found.items()}


def svg(result: Mapping) -> str:
    """Training step and text encoding side by side, whichever the results hold."""
    charts = []
    if "step" in result:
        charts.append(("Training step, by number of classes", lines_of(result["step"])))
    if "text" in result:
        charts.append(("Text encoding forward + backward", lines_of(result["text"]["rows"])))
    step = WIDTH + LEFT + 30
    body = "".join(panel(title, lines, i * step) for i, (title, lines) in enumerate(charts))
    size = f'width="{step * len(charts)}" height="{HEIGHT + TOP + 30}"'
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{body}</svg>\n'


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    write_text(target, svg(json.loads(source.read_text(encoding="utf-8"))))
