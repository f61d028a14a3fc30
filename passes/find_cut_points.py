"""find-cut-points: where a network can be cut in two with one tensor between."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from perse_compile.macs import cumulative_macs
from perse_compile.pipeline import Pass
from perse_compile.program import CutPoint, Program
from perse_compile.rewriting import data_inputs, is_op

CHANNELS_FIRST, CHANNELS_LAST = (0, 1, 2, 3), (0, 2, 3, 1)


@dataclass(frozen=True)
class FindCutPoints(Pass):
    """List the images that every path from input to output crosses, with the cost up to them.

    Given:  x -> a -> b -> add(a, b) -> pool -> fc
    Result: cuts a, add, pool
    """

    name = "find-cut-points"
    needs = ("propagate-shapes",)

    def apply(self, program: Program) -> None:
        graph = program.module.graph
        macs, images = cumulative_macs(graph), image_nodes(graph)
        program.cuts = [CutPoint(n.name, macs[n.name], n.meta["shape"]) for n in crossed_by_all(graph) if n in images]


def crossed_by_all(graph: fx.Graph) -> list[fx.Node]:
    """In topological order a node is crossed by every path exactly if, after it, nothing before it is read any more."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    crossed, last_read = [], -1
    for node in graph.nodes:
        if node.op == "get_attr" or node.op == "output":
            continue
        if last_read <= place[node] and node.op == "call_function" and data_inputs(node):
            crossed.append(node)
        last_read = max([last_read, *(place[user] for user in node.users)])
    return crossed


def brought_first(node: fx.Node) -> bool:
    """Whether everybody who reads it moves its channels to the front, as of tokens that become an image again."""
    return bool(node.users) and all(is_op(user, "permute") and user.args[1] == (0, 3, 1, 2) for user in node.users)


def image_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose dimensions are channels, height, width: 4D, and not between a permute and its inverse."""
    order: dict[fx.Node, tuple[int, ...]] = {}
    for node in graph.nodes:
        sources = data_inputs(node)
        order[node] = order[sources[0]] if sources else CHANNELS_FIRST
        if is_op(node, "permute") and len(node.args[1]) == len(order[node]):
            order[node] = tuple(order[node][d] for d in node.args[1])
        elif len(node.meta.get("shape", ())) != 3 or is_op(node, "reshape"):
            order[node] = CHANNELS_LAST if brought_first(node) else CHANNELS_FIRST
    return {
        n
        for n in graph.nodes
        if order[n] == CHANNELS_FIRST and len(n.meta.get("shape", ())) == 3 and n.op == "call_function"
        if "parts" not in n.meta
    }
