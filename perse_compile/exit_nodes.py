"""What runs at an exit, in the graph of a program that has been through insert-exits: from its tap to its logits."""

from __future__ import annotations

from typing import Any

from torch import fx

from perse_compile.program import Exit, Program


def head_node(program: Program, exit: Exit) -> fx.Node:
    """The ops.head that gives its logits."""
    heads: Any = program.module.graph.output_node().args[0]
    node: fx.Node = heads[[e.name for e in program.exits].index(exit.name)]
    return node


def feature_nodes(program: Program, exit: Exit) -> list[fx.Node]:
    """Between tap and head, in order: pool_features and, of a bottleneck, linear and relu. No tensors."""
    node: Any = head_node(program, exit).args[0]
    found: list[fx.Node] = []
    while node.name != exit.tap:
        found.insert(0, node)
        node = node.args[0]
    return found
