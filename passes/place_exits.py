"""place-exits: choose the nodes that exits read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from torch import fx

from perse_compile.errors import PassError
from perse_compile.ops import ACTIVATIONS
from perse_compile.passes.head_types import AUTO, HeadWish, make_exits
from perse_compile.pipeline import Pass
from perse_compile.program import CutPoint, Program
from perse_compile.rewriting import is_op

AUTOMATIC = 3
EARLIEST = 0.02  # too little is known there
LATEST = 0.95  # an exit that costs as good as everything saves nothing
APART = 0.05  # automatic exits nearer to each other than this are one too many
ELEMENTWISE = ("affine", *ACTIVATIONS)
CONTINUES = (*ELEMENTWISE, "max_pool2d", "avg_pool2d", "pad", "permute", "layer_norm")


@dataclass(frozen=True)
class PlaceExits(Pass):
    """Choose taps among the cut points: "auto", a number, or names of nodes; and what the head at each reads.

    Given:  cuts a (10 %), b (30 %), c (50 %), d (80 %)
    Result: exits exit0 at b, exit1 at c, exit2 at d
    """

    name = "place-exits"
    needs = ("find-cut-points",)
    exits: str | int | tuple[str, ...] = "auto"
    head: HeadWish = AUTO
    spare: int = 0  # outputs that InsertExits will add to the network's classes

    def apply(self, program: Program) -> None:
        cuts = {cut.node: cut for cut in program.cuts}
        if isinstance(self.exits, tuple):
            taps = [named(program, name) for name in self.exits]
            if len(set(taps)) != len(taps):
                raise PassError(f"an exit is named twice: {', '.join(taps)}")
        else:
            taps = spread(program, self.exits)
        ordered = [cuts[n.name] for n in program.module.graph.nodes if n.name in taps]
        program.exits = make_exits(ordered, len(program.classes) + self.spare, self.head)


def named(program: Program, name: str) -> str:
    """A cut point by its node's name; dots as in module paths are understood."""
    name, cuts = name.strip().replace(".", "_"), [cut.node for cut in program.cuts]
    if name in cuts:
        return name
    order = [node.name for node in program.module.graph.nodes]
    if name not in order:
        near = difflib.get_close_matches(name, cuts, 3, 0.4)
        what = f"no node named {name!r} in {program.name}"
    else:
        at = order.index(name)
        near = [c for c in cuts if order.index(c) < at][-1:] + [c for c in cuts if order.index(c) > at][:1]
        what = f"{name!r} is not a cut point: some path from input to output goes around it"
    hint = f"the nearest cut points are {', '.join(near)}" if near else "it has no cut point near"
    raise PassError(
        f"{what}; {hint}; `perse-compile insert-exits {program.provenance.get('model', 'MODEL')} --list` lists all"
    )


def spread(program: Program, exits: str | int) -> list[str]:
    """Taps whose costs are nearest to equal shares, preferring ends of blocks."""
    count = AUTOMATIC if exits == "auto" else exits
    if not isinstance(count, int) or count < 1:
        raise PassError(f"--exits {exits!r} is not auto, a positive number, or names of nodes")
    total = max((cut.macs for cut in program.cuts), default=0)
    cuts = [cut for cut in program.cuts if prod(cut.shape[1:]) > 1 and EARLIEST * total <= cut.macs <= LATEST * total]
    penalties = penalties_of(program, cuts)
    settled = [cut for cut in cuts if penalties[cut.node] < 1]
    candidates = settled if len(settled) >= count else cuts
    if len(candidates) < count:
        if exits != "auto":
            raise PassError(
                f"{program.name} has {len(candidates)} places for exits, not {count};"
                " `perse-compile insert-exits MODEL --list` lists them"
            )
        count = len(candidates)  # perhaps none
    taps = nearest(candidates, penalties, total, count)
    while exits == "auto" and any(b.macs - a.macs < APART * total for a, b in pairwise(taps)):
        count -= 1
        taps = nearest(candidates, penalties, total, count)
    return [tap.node for tap in taps]


def nearest(candidates: list[CutPoint], penalties: dict[str, float], total: int, count: int) -> list[CutPoint]:
    costs = [
        [abs(cut.macs / total - (i + 1) / (count + 1)) + penalties[cut.node] for cut in candidates]
        for i in range(count)
    ]
    return [candidates[i] for i in cheapest_increasing(costs)]


def penalties_of(program: Program, cuts: list[CutPoint]) -> dict[str, float]:
    """How much worse than the ideal share, as a share of the cost: 0 at the last end of a block before the image
    shrinks, a little at other ends, more within a block, 1 where an activation or a pool is still to come."""
    nodes = {cut.node: program.node(cut.node) for cut in cuts}
    ends = [cut for cut in cuts if is_settled(nodes[cut.node]) and is_block_end(nodes[cut.node])]
    last = {cut.node for cut, following in pairwise(ends) if following.shape[1:] != cut.shape[1:]}
    among = {cut.node for cut in ends}
    return {
        name: 1.0 if not is_settled(node) else 0.08 if name not in among else 0.0 if name in last else 0.02
        for name, node in nodes.items()
    }


def is_settled(node: fx.Node) -> bool:
    return not all(is_op(user, *CONTINUES) for user in node.users)


def is_block_end(node: fx.Node) -> bool:
    """Where branches join, a pool, or a convolution without activation (the end of an inverted residual)."""
    source: Any = node
    while is_op(source, *ELEMENTWISE):
        source = source.args[0]
    return is_op(source, "add", "concat", "channel_shuffle") or is_op(node, "conv2d", "max_pool2d", "avg_pool2d")


def cheapest_increasing(costs: list[list[float]]) -> list[int]:
    """One column per row, columns increasing, with the least sum."""
    if not costs:
        return []
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(costs[0]) + 1)
    for i, row in enumerate(costs):
        grown: list[tuple[float, list[int]]] = [(float("inf"), [])] * (len(row) + 1)
        for j in range(i, len(row)):
            here = (best[j][0] + row[j], [*best[j][1], j])
            grown[j + 1] = min(grown[j], here, key=lambda pair: pair[0])
        best = grown
    return best[-1][1]
