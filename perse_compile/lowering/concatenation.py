"""Concatenation in place: kernels write their channels into the image that joins them later, so nothing is copied."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from perse_compile.lowering.fuse import WRITES_IMAGES, op_of
from perse_compile.lowering.kernels import margins
from perse_compile.lowering.kernels.padding import Margins
from perse_compile.lowering.kernels.scope import Part, args_of


def find_parts(nodes: list[fx.Node], around: Callable[[fx.Node], Margins]) -> dict[fx.Node, Part]:
    """Where the results of these nodes lie, for concatenations along channels and what they join.

    What no kernel here can write in place gets a part too: the first concatenation copies it there.
    `around` gives the margins that an image should have.

    Given:  f1 = conv(x); c1 = concat(x, f1); f2 = conv(c1); c2 = concat(x, f1, f2)
    Result: one image c2; f1 and f2 are written into it, c1 is its first channels, and only x is copied into it.
    """
    parts: dict[fx.Node, Part] = {}
    here = set(nodes)
    for node in reversed(nodes):
        if not _joins_channels(node):
            continue
        if node not in parts:
            part = _joined(node, parts) or _new_image(node, parts, here, around)
            if part is None:
                continue
            parts[node] = part
        for source, first in _with_first_channels(node):
            if source not in parts:
                image, start = parts[node].image, parts[node].first
                parts[source] = Part(image, start + first, source.meta["shape"][0])
    return parts


def _joins_channels(node: fx.Node) -> bool:
    if node.op != "call_function" or op_of(node) != "concat" or args_of(node)[1] != 1:
        return False
    copied_anyhow = node.users and all(op_of(user) == "channel_shuffle" for user in node.users)
    return len(node.meta["shape"]) == 3 and not copied_anyhow


def _with_first_channels(node: fx.Node) -> list[tuple[fx.Node, int]]:
    first, found = 0, []
    for source in args_of(node)[0]:
        found.append((source, first))
        first += source.meta["shape"][0]
    return found


def _can_write(source: fx.Node, here: set[fx.Node]) -> bool:
    return source in here and source.op == "call_function" and op_of(source) in WRITES_IMAGES


def _joined(node: fx.Node, parts: dict[fx.Node, Part]) -> Part | None:
    """The part that the node is when all that it joins already lies side by side."""
    sources = _with_first_channels(node)
    start = parts.get(sources[0][0])
    if start is None:
        return None
    for source, first in sources:
        part = parts.get(source)
        if part is None or part.image != start.image or part.first != start.first + first:
            return None
    return Part(start.image, start.first, node.meta["shape"][0])


def _new_image(
    node: fx.Node, parts: dict[fx.Node, Part], here: set[fx.Node], around: Callable[[fx.Node], Margins]
) -> Part | None:
    """An image of the node's own if at least half of it can be written in place; else one copy is cheaper."""
    joined = dict.fromkeys(args_of(node)[0])
    written = [source for source in joined if source not in parts and _can_write(source, here)]
    channels, height, width = node.meta["shape"]
    if 2 * sum(source.meta["shape"][0] for source in written) < channels:
        return None
    most = _most([around(each) for each in (node, *written)])
    return Part(margins.with_margins(node.name, (1, height, width, channels), most), 0, channels)


def _most(all_margins: list[Margins]) -> Margins:
    top, below, left, right = (max(sides) for sides in zip(*all_margins, strict=True))
    return top, below, left, right
