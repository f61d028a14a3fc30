"""Small tools that several passes need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx

from perse_compile.program import Program, make_module


def is_op(node: Any, *names: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and getattr(node.target, "__name__", "") in names


def data_inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes it reads that depend on the image: no tensors."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def output(graph: fx.Graph) -> fx.Node:
    node: fx.Node = graph.output_node()
    return node


def tidy(program: Program) -> None:
    """Drop nodes that nothing reads and tensors that no node names; recompile."""
    program.module.graph.eliminate_dead_code()
    program.module = make_module(program.module.graph, program.tensors(), program.name)


def add_tensor(program: Program, name: str, tensor: Tensor, node_name: str) -> fx.Node:
    """Register a tensor and make its get_attr node at the graph's insertion point."""
    program.set_tensor(name, tensor)
    node: fx.Node = program.module.graph.create_node("get_attr", name, (), name=node_name)
    node.meta["shape"] = tuple(tensor.shape)
    return node


def live(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if node.op == "call_function"]
