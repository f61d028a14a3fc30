"""place-exits: choose the nodes that exits read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from math import prod

from torch import fx

from perse_compile.errors import PassError
from perse_compile.macs import cumulative_macs
from perse_compile.pipeline import Pass
from perse_compile.program import CutPoint, Exit, Program
from perse_compile.rewriting import is_op, output

AUTOMATIC = 3
MOST_FEATURES = 1024
LATEST = 0.95  # an exit that costs as good as everything saves nothing
CONTINUES = (
    "affine", "relu", "relu6", "clamp", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "leaky_relu", "elu",
    "max_pool2d", "avg_pool2d", "pad", "permute", "layer_norm",
)  # fmt: skip


@dataclass(frozen=True)
class PlaceExits(Pass):
    """Choose taps among the cut points: "auto", a number, or names of nodes.

    Given:  cuts a (10 %), b (30 %), c (50 %), d (80 %)
    Result: exits exit0 at b, exit1 at c, exit2 at d
    """

    name = "place-exits"
    needs = ("find-cut-points",)
    exits: str | int | tuple[str, ...] = "auto"

    def apply(self, program: Program) -> None:
        cuts = {cut.node: cut for cut in program.cuts}
        if isinstance(self.exits, tuple):
            taps = [named(program, name) for name in self.exits]
            if len(set(taps)) != len(taps):
                raise PassError(f"an exit is named twice: {', '.join(taps)}")
        else:
            taps = spread(program, self.exits)
        ordered = [cuts[n.name] for n in program.module.graph.nodes if n.name in taps]
        program.exits = [make_exit(f"exit{i}", cut) for i, cut in enumerate(ordered)]


def make_exit(name: str, cut: CutPoint) -> Exit:
    channels, height, width = cut.shape
    grid = next((g for g in (4, 2) if channels * g * g <= MOST_FEATURES and g <= min(height, width)), 1)
    return Exit(name, cut.node, grid, channels * grid * grid, cut.macs)


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
    raise PassError(f"{what}; {hint}; `perse-compile insert-exits {program.provenance.get('model', 'MODEL')} --list` lists all")


def spread(program: Program, exits: str | int) -> list[str]:
    """Taps whose costs are nearest to equal shares, preferring ends of blocks."""
    count = AUTOMATIC if exits == "auto" else exits
    if not isinstance(count, int) or count < 1:
        raise PassError(f"--exits {exits!r} is not auto, a positive number, or names of nodes")
    macs = cumulative_macs(program.module.graph)
    total = macs[output(program.module.graph).name]
    cuts = [cut for cut in program.cuts if prod(cut.shape[1:]) > 1 and 0 < cut.macs <= LATEST * total]
    penalties = {cut.node: penalty(program.node(cut.node), cut, cuts) for cut in cuts}
    settled = [cut for cut in cuts if penalties[cut.node] < 1]
    candidates = settled if len(settled) >= count else cuts
    if len(candidates) < count:
        if exits != "auto" or not candidates:
            raise PassError(f"{program.name} has {len(candidates)} places for exits, not {count}; `perse-compile insert-exits MODEL --list` lists them")
        count = len(candidates)
    costs = [[abs(cut.macs / total - (i + 1) / (count + 1)) + penalties[cut.node] for cut in candidates] for i in range(count)]
    return [candidates[i].node for i in cheapest_increasing(costs)]


def penalty(node: fx.Node, cut: CutPoint, cuts: list[CutPoint]) -> float:
    """How much worse than the ideal share, as a share of the cost: 0 last before the image shrinks, small at the end of
    a residual block, more within a block, 1 where an activation or a pool is still to come."""
    if all(is_op(user, *CONTINUES) for user in node.users):
        return 1.0
    following = next((c for c in cuts if c.macs > cut.macs), None)
    if following is None or following.shape[1:] != cut.shape[1:]:
        return 0.0
    return 0.02 if len(node.users) > 1 else 0.06


def cheapest_increasing(costs: list[list[float]]) -> list[int]:
    """One column per row, columns increasing, with the least sum."""
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(costs[0]) + 1)
    for i, row in enumerate(costs):
        grown: list[tuple[float, list[int]]] = [(float("inf"), [])] * (len(row) + 1)
        for j in range(i, len(row)):
            here = (best[j][0] + row[j], [*best[j][1], j])
            grown[j + 1] = min(grown[j], here, key=lambda pair: pair[0])
        best = grown
    return best[-1][1]
