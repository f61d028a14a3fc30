"""Each operation as a tensor expression over physical layouts.

`lower_group` turns one group of nodes into the kernel calls that compute it: usually one, preceded by a
copy into a zero-padded buffer where a convolution or pooling needs it, or none where only the view changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx
from tvm import te, tirx

from perse_compile.errors import LoweringError
from perse_compile.lowering.expressions import BINARY, UNARY, constant, exp
from perse_compile.lowering.fuse import ANCHORS, Group, op_of
from perse_compile.lowering.schedules import conv, depthwise, elementwise
from perse_compile.lowering.values import CHANNELS_LAST, Constant, Value, default_order
from perse_compile.targets import Target

Scheduler = Callable[[tirx.PrimFunc], tirx.PrimFunc]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """A value in memory: under which name, and how it is laid out. Two may share a name (views)."""

    name: str
    shape: tuple[int, ...]  # physical
    order: tuple[int, ...]
    dtype: str = "float32"

    def as_value(self, shape: tuple[int, ...] | None = None) -> Value:
        return Value(te.placeholder(shape or self.shape, name=_identifier(self.name)), self.order)


@dataclass
class KernelCall:
    """One kernel and what it reads and writes; shapes are those the kernel declares."""

    hint: str  # what the kernel is called after
    func: tirx.PrimFunc
    schedule: Scheduler
    inputs: list[tuple[str, tuple[int, ...]] | Constant]
    output: str
    shape: tuple[int, ...]


@dataclass
class Scope:
    """One kernel in the making."""

    values: dict[str, Stored]
    weights: Callable[[fx.Node], Array]
    target: Target
    rows: tuple[int, int] | None = None  # (H, W) when the kernel sees (1,H,W,C) as (1,1,H*W,C)
    inputs: list[tuple[te.Tensor, tuple[str, tuple[int, ...]] | Constant]] = field(default_factory=list)
    inner: dict[fx.Node, Value] = field(default_factory=dict)
    schedule: Scheduler | None = None

    def read(self, node: fx.Node) -> Value:
        if node in self.inner:
            return self.inner[node]
        stored = self.values[node.name]
        return self.place(stored, self._seen(stored.shape))

    def place(self, stored: Stored, shape: tuple[int, ...]) -> Value:
        value = stored.as_value(shape)
        self.inputs.append((value.tensor, (stored.name, shape)))
        return value

    def constant(self, name: str, array: Array) -> te.Tensor:
        tensor = te.placeholder(array.shape, name=_identifier(name))
        self.inputs.append((tensor, Constant(name, np.ascontiguousarray(array, dtype=np.float32))))
        return tensor

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.rows is None:
            return shape
        if math.prod(shape[:-1]) == math.prod(self.rows):
            return (1, 1, math.prod(self.rows), shape[-1])
        if math.prod(shape[:-1]) == 1:
            return (1, 1, 1, shape[-1])
        raise LoweringError(f"cannot see {shape} as rows of {self.rows}")


def lower_group(group: Group, values: dict[str, Stored], weights: Callable[[fx.Node], Array], target: Target) -> list[KernelCall]:
    """Kernel calls of one group; enters the stored result under the last node's name in `values`."""
    if len(group.nodes) == 1 and (view := _as_view(group.last, values)) is not None:
        values[group.last.name] = view
        return []
    scope = Scope(values, weights, target)
    calls: list[KernelCall] = []
    for node in group.nodes:
        op = op_of(node)
        try:
            if op in PADDED and any(_padding(node)):
                calls.append(_pad_first(node, scope))
            scope.inner[node] = LOWER[op](scope, node)
        except KeyError as error:
            raise LoweringError(f"node {node.name}: no lowering for {op} ({error})") from error
    result = scope.inner[group.last]
    logical = tuple(group.last.meta["shape"])
    order = result.order
    sizes = (1, *logical)
    shape = tuple(sizes[i] for i in order)
    calls.append(_call(scope, group, result))
    values[group.last.name] = Stored(group.last.name, shape, order)
    return calls


def _call(scope: Scope, group: Group, result: Value) -> KernelCall:
    func = te.create_prim_func([tensor for tensor, _ in scope.inputs] + [result.tensor])
    schedule = scope.schedule or partial(elementwise.schedule, target=scope.target)
    hint = "_".join(op_of(node) for node in group.nodes[:4])
    return KernelCall(hint, func, schedule, [source for _, source in scope.inputs], group.last.name, result.shape)


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


# ---------------------------------------------------------------- views: no kernel at all


def _as_view(node: fx.Node, values: dict[str, Stored]) -> Stored | None:
    op = op_of(node)
    if op == "permute":
        source = values[node.args[0].name]  # type: ignore[union-attr]
        dims = node.args[1]
        assert isinstance(dims, tuple | list)
        return replace(source, order=tuple(list(dims).index(i) for i in source.order))
    if op == "reshape" or (op == "pool_features" and len(node.args[0].meta["shape"]) == 1):  # type: ignore[union-attr]
        source = values[node.args[0].name]  # type: ignore[union-attr]
        shape = (1, *node.meta["shape"])
        order = default_order(len(shape))
        target = Value(te.placeholder(tuple(shape[i] for i in order)), order)
        if source.as_value().plain and target.plain:
            return Stored(source.name, target.shape, order)
    return None


# ---------------------------------------------------------------- padding

PADDED = {"conv2d", "max_pool2d", "avg_pool2d"}


def _padding(node: fx.Node) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) that a kernel without bounds checks needs around its input."""
    op = op_of(node)
    _, height, width = node.args[0].meta["shape"]  # type: ignore[union-attr]
    _, out_h, out_w = node.meta["shape"]
    if op == "conv2d":
        (kh, kw) = node.args[1].meta["shape"][2:]  # type: ignore[union-attr]
        (sh, sw), (ph, pw), (dh, dw) = node.args[3:6]  # type: ignore[misc]
    else:
        (kh, kw), (sh, sw), (ph, pw) = node.args[1:4]  # type: ignore[misc]
        dh, dw = node.args[4] if op == "max_pool2d" else (1, 1)  # type: ignore[misc]
    below = max(0, (out_h - 1) * sh + (kh - 1) * dh + 1 - height - ph)
    right = max(0, (out_w - 1) * sw + (kw - 1) * dw + 1 - width - pw)
    return ph, below, pw, right


def _pad_first(node: fx.Node, scope: Scope) -> KernelCall:
    source = scope.values[node.args[0].name]  # type: ignore[union-attr]
    data = source.as_value()
    fill = -3.4028234663852886e38 if op_of(node) == "max_pool2d" else 0.0
    top, below, left, right = _padding(node)
    tensor = _pad_tensor(data.tensor, (top, below, left, right), fill)
    name = f"{node.name}.padded"
    shape = tuple(int(size) for size in tensor.shape)
    scope.values[name] = Stored(name, shape, source.order)
    func = te.create_prim_func([data.tensor, tensor])
    schedule = partial(elementwise.schedule, target=scope.target)
    return KernelCall("pad", func, schedule, [(source.name, source.shape)], name, shape)


def _pad_tensor(data: te.Tensor, pads: tuple[int, int, int, int], fill: float) -> te.Tensor:
    _, height, width, channels = (int(size) for size in data.shape)
    top, below, left, right = pads

    def at(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = tirx.all(h >= top, h < top + height, w >= left, w < left + width)
        return tirx.if_then_else(inside, data[n, h - top, w - left, c], constant(fill))

    return te.compute((1, height + top + below, width + left + right, channels), at, name="padded")


def _padded_input(scope: Scope, node: fx.Node) -> te.Tensor:
    name = f"{node.name}.padded"
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    stored = scope.values[name] if any(_padding(node)) else scope.values[source.name]
    if stored.order != CHANNELS_LAST:
        raise LoweringError(f"node {node.name}: {op_of(node)} after a permutation; add .contiguous() is not enough, keep NCHW")
    return scope.place(stored, stored.shape).tensor


# ---------------------------------------------------------------- convolution and products


def _conv2d(scope: Scope, node: fx.Node) -> Value:
    _, weight_node, bias_node, stride, padding, dilation, groups = node.args
    weight = scope.weights(weight_node)  # type: ignore[arg-type]
    bias = None if bias_node is None else scope.weights(bias_node)  # type: ignore[arg-type]
    out_c, group_in, kh, kw = weight.shape
    _, height, width = node.meta["shape"]
    name = str(weight_node.target)  # type: ignore[union-attr]
    if groups == out_c == node.args[0].meta["shape"][0] and group_in == 1:  # type: ignore[union-attr]
        return _depthwise(scope, node, name, weight, bias)
    flat = (kh, kw) == (1, 1) and stride == (1, 1) and padding == (0, 0)
    if flat:
        scope.rows = (height, width)
        data = scope.read(node.args[0]).tensor  # type: ignore[arg-type]
        height, width = 1, height * width
    else:
        data = _padded_input(scope, node)
    shape = conv.ConvShape(height, width, out_c, out_c // int(groups), group_in, (kh, kw))  # type: ignore[call-overload]
    tensor = _convolve(scope, data, weight, name, shape, stride, dilation)  # type: ignore[arg-type]
    return Value(_add_bias(scope, tensor, bias, name, out_c, height, width), CHANNELS_LAST)


def _convolve(
    scope: Scope, data: te.Tensor, weight: Array, name: str, shape: conv.ConvShape, stride: tuple[int, int], dilation: tuple[int, int]
) -> te.Tensor:
    knobs = conv.choose(shape, scope.target)
    scope.schedule = partial(conv.schedule, knobs=knobs)
    block = knobs.block
    blocks = -(-shape.out_channels // block)
    kh, kw = shape.kernel
    packed = np.zeros((blocks * block, *weight.shape[1:]), np.float32)
    packed[: shape.out_channels] = weight
    packed = packed.reshape(blocks, block, shape.group_in, kh, kw).transpose(0, 3, 4, 2, 1)
    weights = scope.constant(name, packed)
    (sh, sw), (dh, dw) = stride, dilation
    wide = -(-shape.width // knobs.columns) * knobs.columns
    y, x = te.reduce_axis((0, kh), "y"), te.reduce_axis((0, kw), "x")
    r = te.reduce_axis((0, shape.group_in), "r")

    def product(h: Any, w: Any, c: Any) -> Any:
        column = w if wide == shape.width else tirx.min(w, shape.width - 1)
        first = 0 if shape.group_out == shape.out_channels else c // shape.group_out * shape.group_in
        return te.sum(
            data[0, h * sh + y * dh, column * sw + x * dw, first + r] * weights[c // block, y, x, r, c % block], axis=[y, x, r]
        )

    return te.compute((shape.height, wide, blocks * block), product, name="acc")


def _add_bias(scope: Scope, acc: te.Tensor, bias: Array | None, name: str, channels: int, height: int, width: int) -> te.Tensor:
    if bias is None:
        return te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c], name="result")
    tensor = scope.constant(name + ".bias", bias)
    return te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c] + tensor[c], name="biased")


def _depthwise(scope: Scope, node: fx.Node, name: str, weight: Array, bias: Array | None) -> Value:
    channels, height, width = node.meta["shape"]
    (sh, sw), (dh, dw) = node.args[3], node.args[5]  # type: ignore[misc]
    data = _padded_input(scope, node)
    weights = scope.constant(name, weight[:, 0].transpose(1, 2, 0))
    y, x = te.reduce_axis((0, weight.shape[2]), "y"), te.reduce_axis((0, weight.shape[3]), "x")
    acc = te.compute(
        (height, width, channels),
        lambda h, w, c: te.sum(data[0, h * sh + y * dh, w * sw + x * dw, c] * weights[y, x, c], axis=[y, x]),
        name="acc",
    )
    scope.schedule = partial(depthwise.schedule, target=scope.target)
    return Value(_add_bias(scope, acc, bias, name, channels, height, width), CHANNELS_LAST)


def _linear(scope: Scope, node: fx.Node) -> Value:
    source, weight_node, bias_node = node.args
    weight = scope.weights(weight_node)  # type: ignore[arg-type]
    bias = None if bias_node is None else scope.weights(bias_node)  # type: ignore[arg-type]
    stored = scope.values[source.name]  # type: ignore[union-attr]
    if stored.order[-1] != len(stored.order) - 1:
        raise LoweringError(f"node {node.name}: linear over a dimension that is not innermost in memory")
    rows = math.prod(stored.shape[:-1])
    scope.rows = (1, rows)
    data = scope.read(source).tensor  # type: ignore[arg-type]
    out = weight.shape[0]
    name = str(weight_node.target)  # type: ignore[union-attr]
    shape = conv.ConvShape(1, rows, out, out, weight.shape[1], (1, 1))
    tensor = _convolve(scope, data, weight[:, :, None, None], name, shape, (1, 1), (1, 1))
    return Value(_add_bias(scope, tensor, bias, name, out, 1, rows), stored.order)


# ---------------------------------------------------------------- pooling and reductions


def _max_pool2d(scope: Scope, node: fx.Node) -> Value:
    (kh, kw), (sh, sw), _, (dh, dw) = node.args[1:5]  # type: ignore[misc]
    channels, height, width = node.meta["shape"]
    data = _padded_input(scope, node)
    y, x = te.reduce_axis((0, kh), "y"), te.reduce_axis((0, kw), "x")
    acc = te.compute(
        (height, width, channels), lambda h, w, c: te.max(data[0, h * sh + y * dh, w * sw + x * dw, c], axis=[y, x]), name="acc"
    )
    scope.schedule = partial(depthwise.schedule, target=scope.target)
    return Value(_add_bias(scope, acc, None, node.name, channels, height, width), CHANNELS_LAST)


def _avg_pool2d(scope: Scope, node: fx.Node) -> Value:
    (kh, kw), (sh, sw), (ph, pw), _, with_pad = node.args[1:6]  # type: ignore[misc]
    _, in_h, in_w = node.args[0].meta["shape"]  # type: ignore[union-attr]
    channels, height, width = node.meta["shape"]
    data = _padded_input(scope, node)
    y, x = te.reduce_axis((0, kh), "y"), te.reduce_axis((0, kw), "x")
    acc = te.compute((height, width, channels), lambda h, w, c: te.sum(data[0, h * sh + y, w * sw + x, c], axis=[y, x]), name="acc")
    rows = _window_counts(height, kh, sh, ph, in_h, bool(with_pad))
    columns = _window_counts(width, kw, sw, pw, in_w, bool(with_pad))
    counts = np.outer(rows, columns).astype(np.float32)
    scope.schedule = partial(depthwise.schedule, target=scope.target)
    if counts.min() == counts.max():
        factor = constant(1.0 / float(counts.min()))
        return Value(te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c] * factor, name="mean"), CHANNELS_LAST)
    inverse = scope.constant(f"{node.name}.inverse_counts", 1.0 / counts)
    return Value(te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c] * inverse[h, w], name="mean"), CHANNELS_LAST)


def _window_counts(out: int, kernel: int, stride: int, padding: int, size: int, with_pad: bool) -> Array:
    """Elements that torch divides by, per output row (or column) of an average pooling."""
    counts = []
    for i in range(out):
        start = i * stride - padding
        stop = min(start + kernel, size + padding)
        counts.append(stop - start if with_pad else min(stop, size) - max(start, 0))
    return np.array(counts, np.float32)


def _adaptive(scope: Scope, node: fx.Node, size: tuple[int, int], kind: str) -> te.Tensor:
    """acc (OH, OW, C) over windows [floor(i*H/OH), ceil((i+1)*H/OH)), and, for means, divided."""
    source = scope.read(node.args[0])  # type: ignore[arg-type]
    if source.order != CHANNELS_LAST:
        raise LoweringError(f"node {node.name}: pooling after a permutation is not supported")
    data = source.tensor
    _, height, width, channels = source.shape
    (oh, ow) = size
    window_h = max(-(-(i + 1) * height // oh) - i * height // oh for i in range(oh))
    window_w = max(-(-(i + 1) * width // ow) - i * width // ow for i in range(ow))
    y, x = te.reduce_axis((0, window_h), "y"), te.reduce_axis((0, window_w), "x")
    neutral = constant(0.0 if kind == "mean" else -3.4028234663852886e38)
    even = height % oh == 0 and width % ow == 0

    def element(h: Any, w: Any, c: Any) -> Any:
        if even:
            return data[0, h * window_h + y, w * window_w + x, c]
        row, column = h * height // oh + y, w * width // ow + x
        inside = tirx.all(row < -(-(h + 1) * height // oh), column < -(-(w + 1) * width // ow))
        return tirx.if_then_else(inside, data[0, tirx.min(row, height - 1), tirx.min(column, width - 1), c], neutral)

    reduce = te.sum if kind == "mean" else te.max
    acc = te.compute((oh, ow, channels), lambda h, w, c: reduce(element(h, w, c), axis=[y, x]), name="acc")
    if kind == "max":
        return acc
    counts = np.outer(
        [-(-(i + 1) * height // oh) - i * height // oh for i in range(oh)],
        [-(-(i + 1) * width // ow) - i * width // ow for i in range(ow)],
    ).astype(np.float32)
    if counts.min() == counts.max():
        return te.compute((oh, ow, channels), lambda h, w, c: acc[h, w, c] * constant(1.0 / float(counts.min())), name="mean")
    inverse = scope.constant(f"{node.name}.inverse_counts", 1.0 / counts)
    return te.compute((oh, ow, channels), lambda h, w, c: acc[h, w, c] * inverse[h, w], name="mean")


def _adaptive_avg_pool2d(scope: Scope, node: fx.Node) -> Value:
    size = node.args[1]
    return _as_image(scope, node, _adaptive(scope, node, size, "mean"))  # type: ignore[arg-type]


def _adaptive_max_pool2d(scope: Scope, node: fx.Node) -> Value:
    size = node.args[1]
    return _as_image(scope, node, _adaptive(scope, node, size, "max"))  # type: ignore[arg-type]


def _as_image(scope: Scope, node: fx.Node, tensor: te.Tensor) -> Value:
    channels, height, width = node.meta["shape"]
    scope.schedule = partial(depthwise.schedule, target=scope.target)
    return Value(te.compute((1, height, width, channels), lambda n, h, w, c: tensor[h, w, c], name="result"), CHANNELS_LAST)


def _pool_features(scope: Scope, node: fx.Node) -> Value:
    grid: int = node.args[1]  # type: ignore[assignment]
    tensor = _adaptive(scope, node, (grid, grid), "mean")
    scope.schedule = partial(elementwise.schedule_any, target=scope.target)
    cells = grid * grid
    out = te.compute((1, node.meta["shape"][0]), lambda n, i: tensor[i % cells // grid, i % grid, i // cells], name="features")
    return Value(out, (0, 1))


def _mean(scope: Scope, node: fx.Node) -> Value:
    dims, keepdim = node.args[1:3]
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    value = scope.read(source)
    if value.order != CHANNELS_LAST or tuple(sorted(dims)) != (2, 3):  # type: ignore[arg-type]
        return _mean_any(scope, node, value)
    _, height, width, channels = value.shape
    y, x = te.reduce_axis((0, height), "y"), te.reduce_axis((0, width), "x")
    data = value.tensor
    acc = te.compute((channels,), lambda c: te.sum(data[0, y, x, c], axis=[y, x]), name="acc")
    factor = constant(1.0 / (height * width))
    scope.schedule = partial(elementwise.schedule_mean, target=scope.target)
    if keepdim:
        return Value(te.compute((1, 1, 1, channels), lambda n, h, w, c: acc[c] * factor, name="mean"), CHANNELS_LAST)
    return Value(te.compute((1, channels), lambda n, c: acc[c] * factor, name="mean"), (0, 1))


def _mean_any(scope: Scope, node: fx.Node, value: Value) -> Value:
    dims: tuple[int, ...] = node.args[1]  # type: ignore[assignment]
    plain = _transposed(value, tuple(range(len(value.order))))
    axes = {d: te.reduce_axis((0, plain.logical[d]), f"r{d}") for d in dims}
    out_shape = (1, *node.meta["shape"])
    kept = [d for d in range(len(plain.logical)) if d not in axes]

    def at(*index: Any) -> Any:
        position = dict(zip(range(len(out_shape)) if node.args[2] else kept, index, strict=True))
        return te.sum(plain.tensor(*[axes.get(d, position.get(d)) for d in range(len(plain.logical))]), axis=list(axes.values()))

    total = te.compute(out_shape, at, name="total")
    factor = constant(1.0 / math.prod(plain.logical[d] for d in dims))
    scope.schedule = partial(elementwise.schedule_any, target=scope.target)
    out = Value(te.compute(out_shape, lambda *i: total(*i) * factor, name="mean"), tuple(range(len(out_shape))))
    return _transposed(out, default_order(len(out_shape)))


def _layer_norm(scope: Scope, node: fx.Node) -> Value:
    source, weight_node, bias_node, eps = node.args
    value = scope.read(source)  # type: ignore[arg-type]
    last = len(value.order) - 1
    if value.order[-1] != last:
        raise LoweringError(f"node {node.name}: layer norm over a dimension that is not innermost in memory")
    size = value.shape[-1]
    outer = value.shape[:-1]
    r, q = te.reduce_axis((0, size), "r"), te.reduce_axis((0, size), "q")
    data = value.tensor
    total = te.compute(outer, lambda *i: te.sum(data(*i, r), axis=r), name="total")
    mean = te.compute(outer, lambda *i: total(*i) * constant(1.0 / size), name="mean")
    square = te.compute(
        outer, lambda *i: te.sum((data(*i, q) - mean(*i)) * (data(*i, q) - mean(*i)), axis=q), name="square"
    )
    weight = scope.constant(f"{node.name}.weight", scope.weights(weight_node))  # type: ignore[arg-type]
    bias = scope.constant(f"{node.name}.bias", scope.weights(bias_node))  # type: ignore[arg-type]

    def normalised(*i: Any) -> Any:
        variance = square(*i[:-1]) * constant(1.0 / size) + constant(float(eps))  # type: ignore[arg-type]
        return (data(*i) - mean(*i[:-1])) / tirx.sqrt(variance) * weight[i[-1]] + bias[i[-1]]

    scope.schedule = partial(elementwise.schedule_any, target=scope.target)
    return Value(te.compute(value.shape, normalised, name="normalised"), value.order)


def _softmax(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(node.args[0])  # type: ignore[arg-type]
    dim: int = node.args[1]  # type: ignore[assignment]
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


# ---------------------------------------------------------------- element-wise


def _unary(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(node.args[0])  # type: ignore[arg-type]
    function = UNARY[op_of(node)]
    return Value(te.compute(value.shape, lambda *i: function(value.tensor(*i), *node.args[1:]), name="activated"), value.order)


def _affine(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(node.args[0])  # type: ignore[arg-type]
    scale = scope.constant(f"{node.name}.scale", scope.weights(node.args[1]))  # type: ignore[arg-type]
    shift = scope.constant(f"{node.name}.shift", scope.weights(node.args[2]))  # type: ignore[arg-type]
    channel = value.order.index(1)
    out = te.compute(value.shape, lambda *i: value.tensor(*i) * scale[i[channel]] + shift[i[channel]], name="affine")
    return Value(out, value.order)


def _binary(scope: Scope, node: fx.Node) -> Value:
    function = BINARY[op_of(node)]
    operands = [_operand(scope, arg) for arg in node.args]
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
    sides = [_broadcast(scope, operand, order, rank, node) for operand in operands]
    return Value(te.compute(shape, lambda *i: function(sides[0](i), sides[1](i)), name=op_of(node)), order)


def _operand(scope: Scope, arg: Any) -> Value | Array | float:
    if isinstance(arg, fx.Node):
        return scope.weights(arg) if arg.op == "get_attr" else scope.read(arg)
    return float(arg)


def _broadcast(
    scope: Scope, operand: Value | Array | float, order: tuple[int, ...], rank: int, node: fx.Node
) -> Callable[[tuple[Any, ...]], Any]:
    if isinstance(operand, float):
        return lambda i: constant(operand)
    if isinstance(operand, Value):
        if len(operand.order) != rank:
            raise LoweringError(f"node {node.name}: {op_of(node)} of tensors of {len(operand.order)} and {rank} dimensions")
        value = operand if operand.order == order else _transposed(operand, order)
        tensor, shape = value.tensor, value.shape
    else:
        full = operand.reshape((1,) * (rank - operand.ndim) + operand.shape)
        laid = full.transpose(order)
        if scope.rows is not None:
            if math.prod(laid.shape[:-1]) != 1:
                raise LoweringError(f"node {node.name}: cannot add a constant of shape {operand.shape} here")
            laid = laid.reshape(1, 1, 1, -1)
        tensor = scope.constant(f"{node.name}.constant", laid)
        shape = laid.shape
    return lambda i: tensor(*[0 if size == 1 else k for size, k in zip(shape, i, strict=True)])


def _transposed(value: Value, order: tuple[int, ...]) -> Value:
    """The same logical tensor in another memory order (as an expression, to be inlined)."""
    if value.order == order:
        return value
    sizes = value.logical
    shape = tuple(sizes[i] for i in order)

    def at(*index: Any) -> Any:
        logical = dict(zip(order, index, strict=True))
        return value.tensor(*[logical[i] for i in value.order])

    return Value(te.compute(shape, at, name="transposed"), order)


# ---------------------------------------------------------------- moves


def _concat(scope: Scope, node: fx.Node) -> Value:
    sources, dim = node.args
    order = default_order(len(node.meta["shape"]) + 1)
    parts = [_transposed(scope.read(source), order) for source in sources]  # type: ignore[union-attr, arg-type]
    axis = order.index(dim)  # type: ignore[arg-type]
    logical = (1, *node.meta["shape"])

    def at(*i: Any) -> Any:
        result, start = None, sum(part.shape[axis] for part in parts)
        for part in reversed(parts):
            start -= part.shape[axis]
            here = part.tensor(*i[:axis], i[axis] - start, *i[axis + 1 :])
            result = here if result is None else tirx.if_then_else(i[axis] < start + part.shape[axis], here, result)
        return result

    return Value(te.compute(tuple(logical[i] for i in order), at, name="concat"), order)


def _slice_dim(scope: Scope, node: fx.Node) -> Value:
    source, dim, start, stop = node.args
    value = scope.read(source)  # type: ignore[arg-type]
    axis = value.order.index(dim)  # type: ignore[arg-type]
    shape = tuple(stop - start if i == axis else size for i, size in enumerate(value.shape))  # type: ignore[operator]
    out = te.compute(shape, lambda *i: value.tensor(*[k + start if j == axis else k for j, k in enumerate(i)]), name="slice")
    return Value(out, value.order)


def _reshape(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(node.args[0])  # type: ignore[arg-type]
    logical = (1, *node.meta["shape"])
    order = default_order(len(logical))
    sizes = value.logical

    def at(*index: Any) -> Any:
        flat: Any = 0
        for position, size in zip(_sorted_by(order, index), logical, strict=True):
            flat = flat * size + position
        where: list[Any] = []
        for size in reversed(sizes):
            where.insert(0, flat % size)
            flat = flat // size
        return value.tensor(*[where[i] for i in value.order])

    return Value(te.compute(tuple(logical[i] for i in order), at, name="reshaped"), order)


def _sorted_by(order: tuple[int, ...], index: tuple[Any, ...]) -> list[Any]:
    logical = dict(zip(order, index, strict=True))
    return [logical[i] for i in range(len(order))]


def _permute(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(node.args[0])  # type: ignore[arg-type]
    dims = list(node.args[1])  # type: ignore[arg-type]
    return Value(value.tensor, tuple(dims.index(i) for i in value.order))


def _channel_shuffle(scope: Scope, node: fx.Node) -> Value:
    value = _transposed(scope.read(node.args[0]), CHANNELS_LAST)  # type: ignore[arg-type]
    groups: int = node.args[1]  # type: ignore[assignment]
    each = value.shape[-1] // groups
    out = te.compute(value.shape, lambda n, h, w, c: value.tensor(n, h, w, c % groups * each + c // groups), name="shuffled")
    return Value(out, CHANNELS_LAST)


def _pad(scope: Scope, node: fx.Node) -> Value:
    value = _transposed(scope.read(node.args[0]), CHANNELS_LAST)  # type: ignore[arg-type]
    left, right, top, below = node.args[1]  # type: ignore[misc]
    if min(left, right, top, below) < 0:
        raise LoweringError(f"node {node.name}: negative padding {node.args[1]}")
    return Value(_pad_tensor(value.tensor, (top, below, left, right), float(node.args[2])), CHANNELS_LAST)  # type: ignore[arg-type]


LOWER: dict[str, Callable[[Scope, fx.Node], Value]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "pool_features": _pool_features,
    "mean": _mean,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "affine": _affine,
    "concat": _concat,
    "slice_dim": _slice_dim,
    "reshape": _reshape,
    "permute": _permute,
    "channel_shuffle": _channel_shuffle,
    "pad": _pad,
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
}
assert set(LOWER) >= ANCHORS
