"""Curves as inline SVG, in the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40  # margins
TICKS = 5
COLOURS = 6  # c0 to c5 of the page


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order of x, and what they are."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def chart(lines: Sequence[Line], x: str, y: str) -> str:
    """Lines with axes, ticks and a legend; "" when there is nothing to draw."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    across, up = (_ticks([point[axis] for line in lines for point in line.points]) for axis in (0, 1))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(f"{y} against {x}")}</title>']
    for value in across:
        at = _x(value, across)
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    for value in up:
        at = _y(value, up)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    parts.append(
        f'<text transform="rotate(-90)" x="{-(HEIGHT - BOTTOM) / 2}" y="12" text-anchor="middle">{escape(y)}</text>'
    )
    for number, line in enumerate(lines):
        places = [(_x(a, across), _y(b, up)) for a, b in line.points]
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        parts.append(f'<path class="line c{number % COLOURS}" d="M{path}"{dashes}/>')
        for (a, b), (px, py) in zip(line.points, places, strict=True):
            told = escape(f"{line.name}: {a:.3g}, {b:.3g}")
            parts.append(
                f'<circle class="c{number % COLOURS}" cx="{px:.1f}" cy="{py:.1f}" r="3"><title>{told}</title></circle>'
            )
    legend = "".join(f'<li class="c{number % COLOURS}">{escape(line.name)}</li>' for number, line in enumerate(lines))
    return "".join([*parts, "</svg>", f'<ul class="legend">{legend}</ul>'])


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers that the values lie between."""
    low, high = min(values), max(values)
    width = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(width / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if width / (step * factor) <= TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * number, 9) for number in range(first, max(last, first + 1) + 1)]


def _x(value: float, ticks: Sequence[float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _y(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0])
