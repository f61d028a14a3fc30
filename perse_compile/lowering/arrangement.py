"""How a stage falls into kernels: groups of nodes, and what needs no kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx

from perse_compile.exit_nodes import feature_nodes
from perse_compile.lowering.concatenation import find_parts
from perse_compile.lowering.fuse import Group, group_nodes, op_of
from perse_compile.lowering.kernels.padding import Margins
from perse_compile.lowering.kernels.scope import Part, Scales
from perse_compile.lowering.pooled import find_summed
from perse_compile.lowering.scaling import find_scaled
from perse_compile.lowering.workload import note_fused
from perse_compile.program import Program


@dataclass(frozen=True)
class Arrangement:
    """`parts`: results that lie in an image with others. `scales`: products that a convolution's weights take in.
    `summed`: images whose rows are added up by the kernel that makes them, in so many pieces."""

    groups: list[Group]
    parts: Mapping[fx.Node, Part]
    scales: Scales
    summed: Mapping[fx.Node, int]


def arrange(nodes: list[fx.Node], kept: set[fx.Node], around: Callable[[fx.Node], Margins]) -> Arrangement:
    """`kept` are nodes whose value is needed outside; `around` gives the margins that an image should have."""
    parts, scales = find_parts(nodes, around), find_scaled(nodes, kept)
    alone = {*scales, *(node for node in parts if op_of(node) == "concat")}
    return Arrangement(group_nodes(nodes, kept, alone), parts, scales, find_summed(nodes, kept))


def note_fused_in(program: Program) -> None:
    """Let readers of all kernels know what is fused, before any is lowered (workload.py)."""
    for stage, exit in zip(program.stages, program.exits, strict=True):
        note_fused(groups_of([program.node(name) for name in stage.nodes], {program.node(stage.output)}))
        nodes = feature_nodes(program, exit)
        note_fused(groups_of(nodes, {nodes[-1]}))


def groups_of(nodes: list[fx.Node], kept: set[fx.Node]) -> list[Group]:
    """Only the groups, for those who do not care how images lie."""
    return arrange(nodes, kept, lambda node: (0, 0, 0, 0)).groups
