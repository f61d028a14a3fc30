"""What one node costs, in multiply-accumulates for batch 1. Needs shapes."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import fx

from perse_compile.exit_nodes import feature_nodes, head_node
from perse_compile.program import Exit, Program


def node_macs(node: fx.Node) -> int:
    """Convolutions, linear layers, heads, per-channel affines and pools count; elementwise operations are free."""
    if node.op != "call_function":
        return 0
    name = node.target.__name__  # type: ignore[union-attr]
    args: tuple[Any, ...] = node.args
    out: int = prod(node.meta["shape"])
    source: int = prod(args[0].meta["shape"]) if isinstance(args[0], fx.Node) else 0
    if name in ("conv2d", "linear"):
        return out * int(prod(args[1].meta["shape"][1:]))
    if name == "matmul":
        return out * int(args[0].meta["shape"][-1])
    if name == "head":
        return int(prod(args[3].meta["shape"]))
    if name in ("max_pool2d", "avg_pool2d"):
        return out * int(prod(args[1]))
    if name == "pool_features" and len(args[0].meta["shape"]) == 1:
        return 0
    return {
        "affine": out, "layer_norm": 4 * out,
        "adaptive_avg_pool2d": source, "adaptive_max_pool2d": source, "mean": source, "amax": source,
        "pool_features": source,
    }.get(name, 0)  # fmt: skip


def cumulative_macs(graph: fx.Graph) -> dict[str, int]:
    """Name of every node -> cost of the graph up to and including it."""
    sums, running = {}, 0
    for node in graph.nodes:
        running += node_macs(node)
        sums[node.name] = running
    return sums


def head_macs(program: Program, exit: str) -> int:
    """All that runs at one exit: pool, projection if it is a bottleneck, and head."""
    found = program.exit(exit)
    return node_macs(head_node(program, found)) + sum(map(node_macs, feature_nodes(program, found)))


def head_parameters(program: Program, exit: Exit) -> int:
    """Numbers that personalising changes: weight and bias."""
    return (exit.features + 1) * program.outputs


def pack_bytes(exit: Exit, outputs: int) -> int:
    """Of its head in every pack: shift, scale, weight, bias."""
    return 4 * (2 * exit.features + exit.features * outputs + outputs)


def head_bytes(exit: Exit, outputs: int) -> int:
    """What an answer reads: the head and, of a bottleneck, the projection, which lies in the backbone's file."""
    return pack_bytes(exit, outputs) + (4 * exit.features * (exit.projected + 1) if exit.projected else 0)
