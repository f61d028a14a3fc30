"""Which nodes of a stage become one kernel.

A kernel is an anchor (convolution, product, pooling, reduction) followed by the element-wise nodes that
only it feeds, or a chain of element-wise and data-moving nodes alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod

from torch import fx

from perse_compile.lowering.expressions import BINARY, UNARY

ANCHORS = {
    "conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean",
    "amax", "layer_norm", "softmax", "pool_features", "matmul",
}  # fmt: skip
ELEMENTWISE = {*UNARY, *BINARY, "affine"}
WRITES_IMAGES = {
    "conv2d", "max_pool2d", "avg_pool2d", "slice_dim", "pad", "pad_by_image", "pad_channels", "upsample",
    "channel_shuffle", "concat",
    *ELEMENTWISE,
}  # fmt: skip
MOVES = {
    "concat", "slice_dim", "reshape", "permute", "channel_shuffle", "pad", "pad_by_image", "pad_channels", "upsample",
}  # fmt: skip

# How often an expression has its argument in it: behind each other that multiplies, and so does the time to compile it.
READS = {
    "sigmoid": 11, "silu": 12, "gelu": 22, "tanh": 11, "elu": 13, "softplus": 111, "mish": 45, "exp": 13, "log": 26,
    "hardswish": 2, "leaky_relu": 3,
}  # fmt: skip
MOST_READS = 500


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


def group_nodes(nodes: list[fx.Node], kept: set[fx.Node], alone: Collection[fx.Node] = ()) -> list[Group]:
    """Groups in execution order. `kept` are nodes whose value is needed outside (the stage's output).

    `alone` are nodes that compute nothing; so are slices of channels, which are another view of an image.
    """
    group_of: dict[fx.Node, Group] = {}
    groups: list[Group] = []
    for node in nodes:
        if node.op != "call_function":
            continue
        group = None if node in alone or _is_view(node) else _group_to_join(node, group_of, groups, kept)
        if group is None:
            group = Group()
        else:
            groups.remove(group)
        group.nodes.append(node)
        if node not in alone and not _is_view(node):
            group_of[node] = group
        groups.append(group)  # a group runs where its last node stands: all its other inputs exist by then
    return groups


def _reads(node: fx.Node) -> int:
    return READS.get(op_of(node), 1) * max(1, max(map(node.args.count, node.all_input_nodes), default=1))


def _is_view(node: fx.Node) -> bool:
    return op_of(node) == "slice_dim" and bool(node.args[1] == 1)


def _group_to_join(
    node: fx.Node, group_of: dict[fx.Node, Group], groups: list[Group], kept: set[fx.Node]
) -> Group | None:
    op = op_of(node)
    if op not in ELEMENTWISE and op not in MOVES:
        return None
    joinable = []
    for source in node.all_input_nodes:
        group = group_of.get(source)
        if group is None or group.last is not source or len(source.users) > 1 or source in kept:
            continue
        if op in MOVES and any(op_of(member) in ANCHORS for member in group.nodes):
            continue
        if op in ELEMENTWISE and source.meta["shape"] != node.meta["shape"]:
            continue  # the node broadcasts this operand: the kernel's loops would not fit
        if prod(map(_reads, (*group.nodes, node))) > MOST_READS:
            continue
        joinable.append(group)
    return max(joinable, key=groups.index, default=None)
