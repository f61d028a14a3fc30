"""split-stages: the backbone between two taps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from perse_compile.pipeline import Pass
from perse_compile.program import Program, Stage


@dataclass(frozen=True)
class SplitStages(Pass):
    """List the nodes of the backbone after one tap and up to the next.

    Given:  x -> a -> tap0 -> b -> tap1, heads at both taps
    Result: stages (x: a, tap0), (tap0: b, tap1)
    """

    name = "split-stages"
    needs = ("insert-exits",)

    def apply(self, program: Program) -> None:
        source = next(node for node in program.module.graph.nodes if node.op == "placeholder")
        program.stages = []
        for exit in program.exits:
            tap = program.node(exit.tap)
            nodes = between(program.module.graph, source, tap)
            program.stages.append(Stage(exit.name, source.name, tap.name, [node.name for node in nodes]))
            source = tap


def between(graph: fx.Graph, source: fx.Node, tap: fx.Node) -> list[fx.Node]:
    """What computing the tap from the source needs, in the graph's order; tensors included."""
    needed, waiting = {tap}, [tap]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node is not source and node not in needed:
                needed.add(node)
                waiting.append(node)
    return [node for node in graph.nodes if node in needed and node is not source]
