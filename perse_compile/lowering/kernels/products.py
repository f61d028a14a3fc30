"""Convolutions and matrix products, over packed weights."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import fx
from tvm import te, tirx

from perse_compile.lowering.defaults import shape_of
from perse_compile.lowering.kernels import winograd
from perse_compile.lowering.kernels.padding import padded_input
from perse_compile.lowering.kernels.scope import Array, KernelCall, Scheduler, Scope, Stored, args_of
from perse_compile.lowering.schedules import conv, elementwise
from perse_compile.lowering.schedules import depthwise as depthwise_schedule
from perse_compile.lowering.values import CHANNELS_LAST, Constant, Value, transposed
from perse_compile.lowering.workload import Workload, of_conv, of_product


def conv2d(scope: Scope, node: fx.Node) -> Value:
    _, weight_node, bias_node, stride, _, dilation, _ = args_of(node)
    weight = scope.weights(weight_node)
    bias = None if bias_node is None else scope.weights(bias_node)
    out_c, height, width = node.meta["shape"]
    name = str(weight_node.target)
    work = of_conv(node, scope.has_gaps(height, width))
    scope.sums_rows = True
    if work.family == "depthwise":
        return depthwise(scope, node, work, name, weight, bias)
    knobs = scope.choices.decide(work, conv.ConvKnobs)
    if knobs.winograd:
        tensor = winograd.convolve(scope, node, weight, name, work, knobs)
        return Value(add_bias(scope, tensor, bias, name, out_c, height, width), CHANNELS_LAST)
    shape = shape_of(work)
    scope.describe(shape.macs, f"{shape} s{stride[0]}")
    row = None
    if knobs.pieces:
        height, width = knobs.pieces, work.pixels // knobs.pieces
        scope.rows = height, width
        row = None if work.plain else shape.width
        shape = replace(shape, height=height, width=width)
    data = scope.read(args_of(node)[0]).tensor if knobs.pieces and work.plain else padded_input(scope, node)
    weights = packed_weights(scope, node, name, weight, knobs.block)
    scope.schedule = partial(conv.schedule, knobs=knobs, lanes=scope.target.lanes)
    tensor = convolve(data, weights, shape, knobs, stride, dilation, row)
    return Value(add_bias(scope, tensor, bias, name, out_c, height, width), CHANNELS_LAST)


def packed_weights(scope: Scope, node: fx.Node, name: str, weight: Array, block: int) -> te.Tensor:
    """[blocks][ky][kx][in][block], with the scale of the input's channels where there is one."""
    out_channels, group_in, kh, kw = weight.shape
    blocks = -(-out_channels // block)
    packed = np.zeros((blocks * block, group_in, kh, kw), np.float32)
    packed[:out_channels] = weight
    packed = packed.reshape(blocks, block, group_in, kh, kw).transpose(0, 3, 4, 2, 1)
    source = args_of(node)[0]
    if source not in scope.scales:
        return scope.constant(name, packed)
    scale = scope.values[scope.scales[source][1].name]
    scale = scope.compact(scale) if scale.strides else scale
    factor, plain = scale.as_value().tensor, te.placeholder(packed.shape, name="weights")

    def at(b: Any, y: Any, x: Any, r: Any, o: Any) -> Any:
        return plain[b, y, x, r, o] * factor(*[r if dimension == 1 else 0 for dimension in scale.order])

    scaled = te.compute(packed.shape, at, name="scaled")
    func = te.create_prim_func([plain, factor, scaled]).with_attr("what", "weights scaled")
    result = Stored(f"{node.name}.scaled", packed.shape, tuple(range(5)))
    inputs: list[tuple[str, tuple[int, ...]] | Constant] = [
        Constant(name, np.ascontiguousarray(packed)),
        (scale.name, scale.shape),
    ]
    schedule = partial(elementwise.schedule, target=scope.target)
    scope.before.append(KernelCall("scale", func, schedule, inputs, result.name, result.shape))
    return scope.place(result, result.shape).tensor


def convolve(
    data: te.Tensor,
    weights: te.Tensor,
    shape: conv.ConvShape,
    knobs: conv.ConvKnobs,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    row: int | None = None,
) -> te.Tensor:
    """`row`: pixels in a row of the image, where the kernel sees all rows as a few long ones."""
    block, blocks = knobs.block, int(weights.shape[0])
    kh, kw = shape.kernel
    (sh, sw), (dh, dw) = stride, dilation
    wide = -(-shape.width // knobs.columns) * knobs.columns
    y, x = te.reduce_axis((0, kh), "y"), te.reduce_axis((0, kw), "x")
    r = te.reduce_axis((0, shape.group_in), "r")

    def product(h: Any, w: Any, c: Any) -> Any:
        column = w if wide == shape.width else tirx.min(w, shape.width - 1)
        if row is not None:
            h, column = (h * shape.width + column) // row, (h * shape.width + column) % row
        first = 0 if shape.group_out == shape.out_channels else c // shape.group_out * shape.group_in
        return te.sum(
            data[0, h * sh + y * dh, column * sw + x * dw, first + r] * weights[c // block, y, x, r, c % block],
            axis=[y, x, r],
        )

    return te.compute((shape.height, wide, blocks * block), product, name="acc")


def add_bias(
    scope: Scope, acc: te.Tensor, bias: Array | None, name: str, channels: int, height: int, width: int
) -> te.Tensor:
    if bias is None:
        return te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c], name="result")
    tensor = scope.constant(name + ".bias", bias)
    return te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c] + tensor[c], name="biased")


def depthwise(scope: Scope, node: fx.Node, work: Workload, name: str, weight: Array, bias: Array | None) -> Value:
    channels, height, width = node.meta["shape"]
    (sh, sw), (dh, dw) = args_of(node)[3], args_of(node)[5]
    data = padded_input(scope, node)
    weights = scope.constant(name, weight[:, 0].transpose(1, 2, 0))
    y, x = te.reduce_axis((0, weight.shape[2]), "y"), te.reduce_axis((0, weight.shape[3]), "x")
    acc = te.compute(
        (height, width, channels),
        lambda h, w, c: te.sum(data[0, h * sh + y * dh, w * sw + x * dw, c] * weights[y, x, c], axis=[y, x]),
        name="acc",
    )
    scope.describe(
        height * width * weight.size,
        f"depthwise {weight.shape[2]}x{weight.shape[3]} @{height}x{width} {channels} s{sh}",
    )
    scope.schedule = windows(scope, work)
    return Value(add_bias(scope, acc, bias, name, channels, height, width), CHANNELS_LAST)


def windows(scope: Scope, work: Workload) -> Scheduler:
    """The schedule of depthwise convolution and of pooling."""
    knobs = scope.choices.decide(work, depthwise_schedule.DepthwiseKnobs)
    return partial(depthwise_schedule.schedule, knobs=knobs, lanes=scope.target.lanes)


def linear(scope: Scope, node: fx.Node) -> Value:
    source, weight_node, bias_node = args_of(node)
    weight = scope.weights(weight_node)
    bias = None if bias_node is None else scope.weights(bias_node)
    stored = scope.values[source.name]
    rows = math.prod(stored.shape[:-1])
    scope.rows = (1, rows)
    data = scope.read(source).tensor
    out = weight.shape[0]
    name = str(weight_node.target)
    work = of_product(node, rows)
    shape = shape_of(work)
    scope.describe(shape.macs, str(shape))
    knobs = scope.choices.decide(work, conv.ConvKnobs)
    weights = packed_weights(scope, node, name, weight[:, :, None, None], knobs.block)
    scope.schedule = partial(conv.schedule, knobs=knobs, lanes=scope.target.lanes)
    tensor = convolve(data, weights, shape, knobs, (1, 1), (1, 1))
    return Value(add_bias(scope, tensor, bias, name, out, 1, rows), stored.order)


def matmul(scope: Scope, node: fx.Node) -> Value:
    """Of two tensors that depend on the image, row by row of the result."""
    rank = len(node.meta["shape"]) + 1
    plain = tuple(range(rank))
    a, b = (transposed(scope.read(side), plain) for side in args_of(node))
    k = te.reduce_axis((0, a.shape[-1]), "k")
    shape = (*a.shape[:-1], b.shape[-1])
    acc = te.compute(shape, lambda *i: te.sum(a.tensor(*i[:-1], k) * b.tensor(*i[:-2], k, i[-1]), axis=k), name="acc")
    scope.describe(math.prod(shape) * a.shape[-1], f"product {'x'.join(map(str, shape[1:]))}, {a.shape[-1]} deep")
    scope.schedule = partial(elementwise.schedule_any, target=scope.target)
    return Value(te.compute(shape, lambda *i: acc(*i), name="product"), plain)
