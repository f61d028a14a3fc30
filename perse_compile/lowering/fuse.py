"""Which nodes of a stage become one kernel.

A kernel is an anchor (convolution, product, pooling, reduction) followed by the element-wise nodes that
only it feeds, or a chain of element-wise and data-moving nodes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from perse_compile.lowering.expressions import BINARY, UNARY

ANCHORS = {
    "conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean",
    "layer_norm", "softmax", "pool_features",
}  # fmt: skip
ELEMENTWISE = {*UNARY, *BINARY, "affine"}
MOVES = {"concat", "slice_dim", "reshape", "permute", "channel_shuffle", "pad"}


@dataclass
class Group:
    """Nodes of one kernel in order; all but the last are read inside it only."""

    nodes: list[fx.Node] = field(default_factory=list)

    @property
    def last(self) -> fx.Node:
        return self.nodes[-1]


def op_of(node: fx.Node) -> str:
    """Name of the operation a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def group_nodes(nodes: list[fx.Node], kept: set[fx.Node]) -> list[Group]:
    """Groups in execution order. `kept` are nodes whose value is needed outside (the stage's output)."""
    group_of: dict[fx.Node, Group] = {}
    groups: list[Group] = []
    for node in nodes:
        if node.op != "call_function":
            continue
        group = _group_to_join(node, group_of, kept)
        if group is None:
            group = Group()
        else:
            groups.remove(group)
        group.nodes.append(node)
        group_of[node] = group
        groups.append(group)  # a group runs where its last node stands: all its other inputs exist by then
    return groups


def _group_to_join(node: fx.Node, group_of: dict[fx.Node, Group], kept: set[fx.Node]) -> Group | None:
    op = op_of(node)
    if op not in ELEMENTWISE and op not in MOVES:
        return None
    joinable = [
        group_of[source]
        for source in node.all_input_nodes
        if source in group_of and group_of[source].last is source and len(source.users) == 1 and source not in kept
    ]
    if op in MOVES:
        joinable = [group for group in joinable if all(op_of(n) in MOVES | ELEMENTWISE for n in group.nodes)]
    elif any(op_of(n) in MOVES for group in joinable for n in group.nodes):
        joinable = [group for group in joinable if not any(op_of(n) in MOVES for n in group.nodes)]
    return joinable[-1] if joinable else None
