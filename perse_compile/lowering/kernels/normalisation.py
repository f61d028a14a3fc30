"""Layer norm and softmax."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import fx
from tvm import te, tirx

from perse_compile.lowering.expressions import constant, exp
from perse_compile.lowering.kernels.scope import Scope, args_of
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.values import Value


def layer_norm(scope: Scope, node: fx.Node) -> Value:
    source, weight_node, bias_node, eps = args_of(node)
    value = scope.read(source)
    size = value.shape[-1]
    outer = value.shape[:-1]
    r, q = te.reduce_axis((0, size), "r"), te.reduce_axis((0, size), "q")
    data = value.tensor
    total = te.compute(outer, lambda *i: te.sum(data(*i, r), axis=r), name="total")
    mean = te.compute(outer, lambda *i: total(*i) * constant(1.0 / size), name="mean")
    square = te.compute(
        outer, lambda *i: te.sum((data(*i, q) - mean(*i)) * (data(*i, q) - mean(*i)), axis=q), name="square"
    )
    if weight_node is not None:
        weight = scope.constant(f"{node.name}.weight", scope.weights(weight_node))
        bias = scope.constant(f"{node.name}.bias", scope.weights(bias_node))

    def normalised(*i: Any) -> Any:
        variance = square(*i[:-1]) * constant(1.0 / size) + constant(float(eps))
        result = (data(*i) - mean(*i[:-1])) / tirx.sqrt(variance)
        return result if weight_node is None else result * weight[i[-1]] + bias[i[-1]]

    scope.schedule = partial(elementwise.schedule_layer_norm, target=scope.target)
    return Value(te.compute(value.shape, normalised, name="normalised"), value.order)


def softmax(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(args_of(node)[0])
    dim: int = args_of(node)[1]
    axis = value.order.index(dim % len(value.order))
    outer = tuple(size for i, size in enumerate(value.shape) if i != axis)
    data = value.tensor

    def along(i: tuple[Any, ...], k: Any) -> tuple[Any, ...]:
        return (*i[:axis], k, *i[axis:])

    r, q = te.reduce_axis((0, value.shape[axis]), "r"), te.reduce_axis((0, value.shape[axis]), "q")
    peak = te.compute(outer, lambda *i: te.max(data(*along(i, r)), axis=r), name="peak")
    total = te.compute(outer, lambda *i: te.sum(exp(data(*along(i, q)) - peak(*i)), axis=q), name="total")

    def share(*i: Any) -> Any:
        rest = (*i[:axis], *i[axis + 1 :])
        return exp(data(*i) - peak(*rest)) / total(*rest)

    scope.schedule = partial(elementwise.schedule_any, target=scope.target)
    return Value(te.compute(value.shape, share, name="softmax"), value.order)
