"""Shapes of a canonical graph, without the batch: node.meta["shape"].

The graph runs on meta tensors (no memory, no arithmetic) with a batch no real size equals, so that an
operation which mixes the batch into another dimension shows up as an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from perse_compile.errors import PassError
from perse_compile.program import InputSpec, Program

BATCH = 7919


def annotate_shapes(program: Program) -> None:
    """Set meta["shape"] on every node: without the batch for data, the whole shape for tensors (get_attr)."""
    annotate_graph(program.module.graph, program.input, program.tensors())


def annotate_graph(graph: fx.Graph, spec: InputSpec, tensors: dict[str, Tensor]) -> None:
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = torch.empty(BATCH, spec.channels, spec.height, spec.width, device="meta")
        elif node.op == "get_attr":
            values[node] = torch.empty_like(tensors[str(node.target)], device="meta")
            node.meta["shape"] = tuple(values[node].shape)
            continue
        elif node.op == "call_function":
            values[node] = run_on_meta(node, values)
        else:
            continue
        node.meta["shape"] = without_batch(node.name, values[node])


def run_on_meta(node: fx.Node, values: dict[fx.Node, Any]) -> Tensor:
    args = map_arg(node.args, lambda n: values[n])
    try:
        result: Tensor = node.target(*args)  # type: ignore[operator]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise PassError(f"node {node.name} cannot be computed: {first_line(error)}") from error
    return result


def without_batch(name: str, value: Tensor) -> tuple[int, ...]:
    if value.dim() == 0 or value.shape[0] != BATCH:
        raise PassError(f"node {name} mixes the batch with other dimensions; keep the batch as dimension 0")
    return tuple(value.shape[1:])


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
