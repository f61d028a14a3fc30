"""Pooling, means, and the features that heads read."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import fx
from tvm import te, tirx

from perse_compile.lowering.expressions import constant
from perse_compile.lowering.kernels.padding import padded_input
from perse_compile.lowering.kernels.products import add_bias, windows
from perse_compile.lowering.kernels.scope import Array, Scope, args_of
from perse_compile.lowering.pooled import sums_of, windows_of_mean
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.values import CHANNELS_LAST, Value, default_order, transposed
from perse_compile.lowering.workload import of_pool


def max_pool2d(scope: Scope, node: fx.Node) -> Value:
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = args_of(node)[1:5]
    channels, height, width = node.meta["shape"]
    data = padded_input(scope, node)
    y, x = te.reduce_axis((0, kh), "y"), te.reduce_axis((0, kw), "x")
    acc = te.compute(
        (height, width, channels),
        lambda h, w, c: te.max(data[0, h * sh + y * dh, w * sw + x * dw, c], axis=[y, x]),
        name="acc",
    )
    scope.schedule = windows(scope, of_pool(node, (kh, kw), (sh, sw), (ph, pw)))
    return Value(add_bias(scope, acc, None, node.name, channels, height, width), CHANNELS_LAST)


def avg_pool2d(scope: Scope, node: fx.Node) -> Value:
    (kh, kw), (sh, sw), (ph, pw), _, with_pad = args_of(node)[1:6]
    _, in_h, in_w = args_of(node)[0].meta["shape"]
    channels, height, width = node.meta["shape"]
    data = padded_input(scope, node)
    y, x = te.reduce_axis((0, kh), "y"), te.reduce_axis((0, kw), "x")
    acc = te.compute(
        (height, width, channels), lambda h, w, c: te.sum(data[0, h * sh + y, w * sw + x, c], axis=[y, x]), name="acc"
    )
    rows = window_counts(height, kh, sh, ph, in_h, bool(with_pad))
    columns = window_counts(width, kw, sw, pw, in_w, bool(with_pad))
    counts = np.outer(rows, columns).astype(np.float32)
    scope.schedule = windows(scope, of_pool(node, (kh, kw), (sh, sw), (ph, pw)))
    if counts.min() == counts.max():
        factor = constant(1.0 / float(counts.min()))
        return Value(
            te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c] * factor, name="mean"),
            CHANNELS_LAST,
        )
    inverse = scope.constant(f"{node.name}.inverse_counts", 1.0 / counts)
    return Value(
        te.compute((1, height, width, channels), lambda n, h, w, c: acc[h, w, c] * inverse[h, w], name="mean"),
        CHANNELS_LAST,
    )


def window_counts(out: int, kernel: int, stride: int, padding: int, size: int, with_pad: bool) -> Array:
    """Elements that torch divides by, per output row (or column) of an average pooling."""
    counts = []
    for i in range(out):
        start = i * stride - padding
        stop = min(start + kernel, size + padding)
        counts.append(stop - start if with_pad else min(stop, size) - max(start, 0))
    return np.array(counts, np.float32)


def widest_window(size: int, out: int) -> int:
    """Pixels of the widest window when `size` pixels become `out`."""
    return max(-(-(i + 1) * size // out) - i * size // out for i in range(out))


def adaptive(scope: Scope, node: fx.Node, size: tuple[int, int], kind: str) -> te.Tensor:
    """acc (OH, OW, C) over windows [floor(i*H/OH), ceil((i+1)*H/OH)), and, for means, divided."""
    source = rows_or_pixels(scope, node)
    data = source.tensor
    _, height, width, channels = source.shape
    (oh, ow) = size
    window_h, window_w = widest_window(height, oh), widest_window(width, ow)
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
    counts *= math.prod(args_of(node)[0].meta["shape"][1:]) // (height * width)  # pixels in each that is added up
    if counts.min() == counts.max():
        return te.compute(
            (oh, ow, channels), lambda h, w, c: acc[h, w, c] * constant(1.0 / float(counts.min())), name="mean"
        )
    inverse = scope.constant(f"{node.name}.inverse_counts", 1.0 / counts)
    return te.compute((oh, ow, channels), lambda h, w, c: acc[h, w, c] * inverse[h, w], name="mean")


def rows_or_pixels(scope: Scope, node: fx.Node) -> Value:
    """What a mean adds up: the sums of the image's rows where the kernel before gives them and the windows fit."""
    source: fx.Node = args_of(node)[0]
    sums = scope.values.get(sums_of(source))
    if sums is None or not (grid := windows_of_mean(node)) or sums.shape[2] % grid:
        return scope.read(source)
    return scope.place(sums, sums.shape)


def sums_of_rows(image: tuple[int, ...], pieces: int, rows: int) -> tuple[int, ...] | None:
    """(1, H, pieces, C): the shape of what rows_or_pixels reads, for a kernel that makes an image (1, H, W, C).

    `rows`: of the image. A kernel that sees other rows can only add up all of it.
    """
    _, height, _, channels = image
    return None if pieces < 1 or (pieces > 1 and rows != height) else (1, height, pieces, channels)


def adaptive_avg_pool2d(scope: Scope, node: fx.Node) -> Value:
    size = args_of(node)[1]
    return as_image(scope, node, adaptive(scope, node, size, "mean"))


def adaptive_max_pool2d(scope: Scope, node: fx.Node) -> Value:
    size = args_of(node)[1]
    return as_image(scope, node, adaptive(scope, node, size, "max"))


def as_image(scope: Scope, node: fx.Node, tensor: te.Tensor) -> Value:
    channels, height, width = node.meta["shape"]
    _, in_h, in_w = args_of(node)[0].meta["shape"]
    window = widest_window(in_h, height), widest_window(in_w, width)
    whole = height == width == 1
    scope.schedule = (
        partial(elementwise.schedule_mean, target=scope.target) if whole else windows(scope, of_pool(node, window))
    )
    return Value(
        te.compute((1, height, width, channels), lambda n, h, w, c: tensor[h, w, c], name="result"), CHANNELS_LAST
    )


def pool_features(scope: Scope, node: fx.Node) -> Value:
    grid: int = args_of(node)[1]
    tensor = adaptive(scope, node, (grid, grid), "mean")
    scope.schedule = partial(elementwise.schedule_mean, target=scope.target)
    cells = grid * grid
    out = te.compute(
        (1, node.meta["shape"][0]), lambda n, i: tensor[i % cells // grid, i % grid, i // cells], name="features"
    )
    return Value(out, (0, 1))


def mean(scope: Scope, node: fx.Node) -> Value:
    dims, keepdim = args_of(node)[1:3]
    value = rows_or_pixels(scope, node)
    if value.order != CHANNELS_LAST or tuple(sorted(dims)) != (2, 3):
        return mean_any(scope, node, value)
    _, height, width, channels = value.shape
    y, x = te.reduce_axis((0, height), "y"), te.reduce_axis((0, width), "x")
    data = value.tensor
    acc = te.compute((channels,), lambda c: te.sum(data[0, y, x, c], axis=[y, x]), name="acc")
    factor = constant(1.0 / math.prod(args_of(node)[0].meta["shape"][1:]))
    scope.schedule = partial(elementwise.schedule_mean, target=scope.target)
    if keepdim:
        return Value(te.compute((1, 1, 1, channels), lambda n, h, w, c: acc[c] * factor, name="mean"), CHANNELS_LAST)
    return Value(te.compute((1, channels), lambda n, c: acc[c] * factor, name="mean"), (0, 1))


def mean_any(scope: Scope, node: fx.Node, value: Value) -> Value:
    factor = constant(1.0 / math.prod(value.logical[d] for d in args_of(node)[1]))
    return reduced(scope, node, value, te.sum, lambda total: total * factor)


def amax(scope: Scope, node: fx.Node) -> Value:
    return reduced(scope, node, scope.read(args_of(node)[0]), te.max, lambda greatest: greatest)


def reduced(
    scope: Scope, node: fx.Node, value: Value, reduce: Callable[..., Any], finish: Callable[[Any], Any]
) -> Value:
    """Over any dimensions of a value that lies in any order."""
    dims, keepdim = args_of(node)[1:3]
    plain = transposed(value, tuple(range(len(value.order))))
    axes = {d: te.reduce_axis((0, plain.logical[d]), f"r{d}") for d in dims}
    sizes = (1, *node.meta["shape"])
    order = default_order(len(sizes))  # of the sums too: a result that lies otherwise would need all of them at once
    out_shape = tuple(sizes[d] for d in order)
    kept = [d for d in range(len(plain.logical)) if keepdim or d not in axes]

    def at(*index: Any) -> Any:
        position = {kept[d]: i for d, i in zip(order, index, strict=True)}
        where = [axes.get(d, position.get(d)) for d in range(len(plain.logical))]
        return reduce(plain.tensor(*where), axis=list(axes.values()))

    total = te.compute(out_shape, at, name="total")
    scope.schedule = partial(elementwise.schedule_any, target=scope.target)
    return Value(te.compute(out_shape, lambda *i: finish(total(*i)), name="reduced"), order)
