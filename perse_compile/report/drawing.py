"""The graph as inline SVG. The page's style gives it colours, its script zoom; without a script it is whole."""

from __future__ import annotations

from html import escape
from typing import Any

from perse_compile.report.environment import FORMATS
from perse_compile.report.layers import Layer
from perse_compile.report.layout import BELOW, HEIGHT, PAD, WIDTH, Box, Layout, layout

Row = dict[str, Any]
Point = tuple[float, float]
LETTERS, FINE = 24, 31  # of a name, and of the finer print, that fit into a layer
FAR_LETTERS = 14  # of a block's name, when layers are too small to read
FEW = 4  # who reads more than these has only the nearest drawn; the others when the layer is chosen


def drawing(found: Row) -> str:
    """Of the figures of `show`, which have layers."""
    layers, exits = found["layers"], found["exits"]
    made = layout(layers, [stage["name"] for stage in found["stages"]])
    most = max((layer["macs"] for layer in layers), default=0) or 1
    words = (
        f"{len(layers)} layers in {len(made.blocks)} blocks and {len(exits)} stages, from top to bottom and"
        " from left to right. The table of layers says the same."
    )
    parts = [
        f'<svg id="graph" viewBox="0 0 {made.width:.0f} {made.height:.0f}" data-width="{made.width:.0f}"'
        f' data-height="{made.height:.0f}" role="img" aria-labelledby="graph-title graph-words">'
        f'<title id="graph-title">Graph of {escape(found["name"])}</title><desc id="graph-words">{words}</desc>'
    ]
    for number, box in enumerate(made.stages):
        parts.append(f'<g class="stage s{number % 6}" data-stage="{number}">{_rect(box, 14)}</g>')
    for box in made.blocks:
        name = _text("block-name", box.x + PAD, box.y + 18, _cut(box.name, int(box.width / 7.5)))
        parts.append(f'<g class="block">{_rect(box, 8)}{name}</g>')
    parts += _edges(layers, made)
    parts += [_layer(i, layer, made.layers[i], most) for i, layer in enumerate(layers)]
    for number, (box, exit) in enumerate(zip(made.exits, exits, strict=True)):
        parts.append(_exit(number, box, exit, exit is exits[-1]))
    for box in made.blocks:
        last = box.name if box.name.count(".") < 2 else box.name.rpartition(".")[2]
        parts.append(_text("far-name", box.x + box.width / 2, box.y + box.height / 2, _cut(last, FAR_LETTERS)))
    for box in made.stages:
        parts.append(_text("stage-name", box.x + 14, box.y + 26, f"to {_cut(box.name, 20)}"))
    return "".join([*parts, '<g id="chosen"></g></svg>'])


def _layer(number: int, layer: Row, box: Box, most: int) -> str:
    name, what = _cut(layer["name"], LETTERS, tail=True), " + ".join(layer["operations"])
    shape = FORMATS["shape"](layer["shape"])
    room = FINE - len(shape) - 1
    bar = (WIDTH - 2) * layer["macs"] / most
    told = escape(f"{layer['name']}: {what}; {shape}")
    return (
        f'<g class="layer {layer["kind"]}" data-i="{number}" data-in="{" ".join(map(str, layer["inputs"]))}">'
        f"<title>{told}</title>{_rect(box, 6)}"
        f'<rect class="cost" x="{box.x + 1:.0f}" y="{box.y + HEIGHT - 5:.0f}" width="{bar:.1f}" height="4" rx="2"/>'
        + _text("name", box.x + 8, box.y + 15, name)
        + _text("fine", box.x + 8, box.y + 28, _cut(what, room))
        + _text("fine end", box.x + WIDTH - 8, box.y + 28, shape)
        + "</g>"
    )


def _exit(number: int, box: Box, exit: Row, last: bool) -> str:
    state = "always answers" if last else f"answers from {exit['threshold']:.3f}" if exit["enabled"] else "off"
    kind = "" if exit["enabled"] else " off"
    middle = box.x + box.width / 2
    return (
        f'<g class="exit s{number % 6}{kind}"><path class="edge" d="M{middle:.0f} {box.y - 20:.0f}V{box.y:.0f}"/>'
        f"{_rect(box, 22)}{_text('name', middle, box.y + 20, _cut(exit['name'], LETTERS))}"
        f"{_text('fine', middle, box.y + 35, state)}</g>"
    )


def _edges(layers: list[Layer], made: Layout) -> list[str]:
    paths = []
    for i, layer in enumerate(layers):
        sources = layer["inputs"] if len(layer["inputs"]) <= FEW else layer["inputs"][-1:]
        paths += [_path(made.layers.get(source), made.layers[i]) for source in sources]
        if len(layer["inputs"]) > FEW:
            box = made.layers[i]
            told = f"+{len(layer['inputs']) - 1}"
            paths.append(_text("more", box.x + box.width - 3, box.y - 3, told))
    return ['<g class="edges">', *paths, "</g>"]


def _path(source: Box | None, target: Box) -> str:
    """Down to the next row; around the left of what is between; or over to the next column."""
    x, y = target.x + target.width / 2, target.y
    if source is None:
        return _curve((x, y - BELOW), (x, y))
    from_x, from_y = source.x + source.width / 2, source.y + source.height
    if y < from_y:
        a, b = source.x + source.width, target.x
        level, to, bend = source.y + HEIGHT / 2, target.y + HEIGHT / 2, max(16.0, (b - a) / 2)
        return _curve((a, level), (a + bend, level), (b - bend, to), (b, to))
    if y - from_y <= HEIGHT + BELOW:
        half = (from_y + y) / 2
        return _curve((from_x, from_y), (from_x, half), (x, half), (x, y))
    left, level, to = min(source.x, target.x) - 9, source.y + HEIGHT * 0.7, target.y + HEIGHT * 0.3
    around = [(left, level), (left, level), (left, level + 12), (left, to - 12), (left, to - 12), (left, to - 12)]
    return _curve((source.x, level), *around, (left, to), (left, to), (target.x, to))


def _curve(start: Point, *rest: Point) -> str:
    """A line to one point, else Bezier curves through three at a time."""
    told = " ".join(f"{x:.0f} {y:.0f}" for x, y in rest)
    return f'<path d="M{start[0]:.0f} {start[1]:.0f}{"L" if len(rest) == 1 else "C"}{told}"/>'


def _rect(box: Box, radius: int) -> str:
    return f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="{radius}"/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _cut(text: str, letters: int, tail: bool = False) -> str:
    """The beginning, or with `tail` the end, which tells layers apart."""
    if len(text) <= letters:
        return text
    return "…" + text[1 - letters :] if tail else text[: max(letters - 1, 1)] + "…"
