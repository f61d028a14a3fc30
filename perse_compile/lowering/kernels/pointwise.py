"""Element-wise operations, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx
from tvm import te

from perse_compile.errors import LoweringError
from perse_compile.lowering.expressions import BINARY, UNARY, constant
from perse_compile.lowering.fuse import op_of
from perse_compile.lowering.kernels.scope import Array, Scope, args_of
from perse_compile.lowering.values import Value, default_order, transposed


def unary(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(args_of(node)[0])
    function = UNARY[op_of(node)]
    return Value(
        te.compute(value.shape, lambda *i: function(value.tensor(*i), *args_of(node)[1:]), name="activated"),
        value.order,
    )


def affine(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(args_of(node)[0])
    scale = scope.constant(f"{node.name}.scale", scope.weights(args_of(node)[1]))
    shift = scope.constant(f"{node.name}.shift", scope.weights(args_of(node)[2]))
    channel = value.order.index(1)
    out = te.compute(value.shape, lambda *i: value.tensor(*i) * scale[i[channel]] + shift[i[channel]], name="affine")
    return Value(out, value.order)


def binary(scope: Scope, node: fx.Node) -> Value:
    function = BINARY[op_of(node)]
    operands = [operand(scope, arg) for arg in args_of(node)]
    rank = len(node.meta["shape"]) + 1
    tensors = [operand for operand in operands if isinstance(operand, Value)]
    if not tensors:
        raise LoweringError(f"node {node.name}: {op_of(node)} of two constants should have been folded")
    order = max(tensors, key=lambda v: math.prod(v.shape)).order
    order = order if len(order) == rank else default_order(rank)
    logical = (1, *node.meta["shape"])
    shape = tuple(logical[i] for i in order)
    if scope.rows is not None:
        shape = max((v.shape for v in tensors), key=math.prod)
    sides = [broadcast(scope, operand, order, rank, node) for operand in operands]
    return Value(te.compute(shape, lambda *i: function(sides[0](i), sides[1](i)), name=op_of(node)), order)


def operand(scope: Scope, arg: Any) -> Value | Array | float:
    if isinstance(arg, fx.Node):
        return scope.weights(arg) if arg.op == "get_attr" else scope.read(arg)
    return float(arg)


def broadcast(
    scope: Scope, operand: Value | Array | float, order: tuple[int, ...], rank: int, node: fx.Node
) -> Callable[[tuple[Any, ...]], Any]:
    if isinstance(operand, float):
        return lambda i: constant(operand)
    if isinstance(operand, Value):
        if len(operand.order) != rank:
            raise LoweringError(
                f"node {node.name}: {op_of(node)} of tensors of {len(operand.order)} and {rank} dimensions"
            )
        value = operand if operand.order == order else transposed(operand, order)
        tensor, shape = value.tensor, value.shape
    else:
        full = operand.reshape((1,) * (rank - operand.ndim) + operand.shape)
        laid = full.transpose(order)
        if scope.rows is not None:
            if math.prod(laid.shape[:-1]) == 1:
                laid = laid.reshape(1, 1, 1, -1)
            else:  # one for each pixel: in as many rows as the kernel sees
                sizes = (1, *node.meta["shape"])
                laid = np.broadcast_to(laid, (*(sizes[i] for i in order[:-1]), laid.shape[-1]))
                laid = laid.reshape(1, *scope.rows, -1)
        tensor = scope.constant(f"{node.name}.constant", laid)
        shape = laid.shape
    return lambda i: tensor(*[0 if size == 1 else k for size, k in zip(shape, i, strict=True)])
