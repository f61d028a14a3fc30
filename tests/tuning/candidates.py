"""Candidates for tests: a convolution under several knobs, and small kernels that misbehave."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx
from tvm import te, tirx

from perse_compile import ops
from perse_compile.lowering.choices import Choices, Chosen
from perse_compile.lowering.kernels.scope import KernelCall, Stored
from perse_compile.lowering.module import lower_nodes, weights_of
from perse_compile.lowering.schedules import conv, elementwise
from perse_compile.lowering.values import Constant, default_order
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target
from perse_compile.tuning.candidate import Candidate
from tests.compiled import graph_of

SIZE = 4096
SLOW, FAST = {"rows": 1, "columns": 1, "block": 1}, {"rows": 1, "columns": 4, "block": 2}  # block: vectors


def convolution(target: Target, channels: int, size: int, kernel: int, knobs: dict[str, int] | None) -> Candidate:
    """Of the same weights for all knobs; None: the defaults, Winograd where that is one."""
    torch.manual_seed(0)

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        weight, bias = (
            tensor("weight", torch.randn(channels, channels, kernel, kernel)),
            tensor("bias", torch.randn(channels)),
        )
        pad = (kernel // 2, kernel // 2)
        return g.call_function(ops.relu, (g.call_function(ops.conv2d, (x, weight, bias, (1, 1), pad, (1, 1), 1)),))

    module = graph_of(build, (channels, size, size))
    first, *_, last = module.graph.nodes
    values = {first.name: Stored(first.name, (1, size, size, channels), default_order(4))}
    nodes, result = list(module.graph.nodes), last.args[0]

    def chosen(work: Workload) -> Chosen | None:
        if knobs is None:
            return None
        return Chosen(conv.ConvKnobs(knobs["rows"], knobs["columns"], knobs["block"] * target.lanes, 8, True))

    return Candidate(lower_nodes(nodes, {result}, values, weights_of(module), Choices(target, chosen)), "conv")


def of(
    target: Target,
    value: Callable[[Any], Any],
    task: str = "double",
    weights: Constant | None = None,
    size: int = SIZE,
) -> Candidate:
    """One kernel that makes value(x) from each of `size` elements x; with weights, value(x * weight)."""
    x = te.placeholder((size,), name="x")
    given = [x]
    if weights is None:
        y = te.compute((size,), lambda i: value(x[i]), name="y")
    else:
        w = te.placeholder(weights.array.shape, name="w")
        y = te.compute((size,), lambda i: value(x[i] * w[i]), name="y")
        given.append(w)
    func = te.create_prim_func([*given, y])
    inputs: list[Any] = [("x", (size,)), *([] if weights is None else [weights])]
    return Candidate(
        [KernelCall("test", func, partial(elementwise.schedule, target=target), inputs, "y", (size,))], task
    )


def double(x: Any) -> Any:
    return x * tirx.const(2.0, "float32")


def triple(x: Any) -> Any:
    return x * tirx.const(3.0, "float32")


def infinite(x: Any) -> Any:
    return x * tirx.const(3e38, "float32") * x * tirx.const(3e38, "float32")


def calls(function: str, *arguments: Any, dtype: str = "int32") -> Callable[[Any], Any]:
    """double(x), plus what a C function gives, which is 0, or does not come back."""
    return lambda x: double(x) + tirx.call_extern(dtype, function, *arguments).astype("float32")


def sleeps(target: Target, seconds: float) -> Candidate:
    """A kernel that takes that long, and nothing of the processor."""
    return of(target, calls("usleep", tirx.IntImm("int32", int(1e6 * seconds))), size=1)


def reads_address_zero(x: Any) -> Any:
    return calls("strlen", tirx.IntImm("int64", 0), dtype="int64")(x)
