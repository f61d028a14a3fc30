"""Operations that only move data: expressions over indices, inlined into what reads them."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import te, tirx

from perse_compile.errors import LoweringError
from perse_compile.lowering.expressions import constant
from perse_compile.lowering.kernels.padding import pad_tensor
from perse_compile.lowering.kernels.scope import Scope, args_of
from perse_compile.lowering.values import CHANNELS_LAST, Value, default_order, transposed


def concat(scope: Scope, node: fx.Node) -> Value:
    sources, dim = args_of(node)
    order = default_order(len(node.meta["shape"]) + 1)
    parts = [transposed(scope.read(source), order) for source in sources]
    axis = order.index(dim)
    logical = (1, *node.meta["shape"])

    def at(*i: Any) -> Any:
        result, start = None, sum(part.shape[axis] for part in parts)
        for part in reversed(parts):
            start -= part.shape[axis]
            here = part.tensor(*i[:axis], i[axis] - start, *i[axis + 1 :])
            result = here if result is None else tirx.if_then_else(i[axis] < start + part.shape[axis], here, result)
        return result

    return Value(te.compute(tuple(logical[i] for i in order), at, name="concat"), order)


def slice_dim(scope: Scope, node: fx.Node) -> Value:
    source, dim, start, stop = args_of(node)
    value = scope.read(source)
    axis = value.order.index(dim)
    shape = tuple(stop - start if i == axis else size for i, size in enumerate(value.shape))
    out = te.compute(
        shape, lambda *i: value.tensor(*[k + start if j == axis else k for j, k in enumerate(i)]), name="slice"
    )
    return Value(out, value.order)


def reshape(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(args_of(node)[0])
    logical = (1, *node.meta["shape"])
    order = default_order(len(logical))
    sizes = value.logical

    def at(*index: Any) -> Any:
        flat: Any = 0
        for position, size in zip(sorted_by(order, index), logical, strict=True):
            flat = flat * size + position
        where: list[Any] = []
        for size in reversed(sizes):
            where.insert(0, flat % size)
            flat = flat // size
        return value.tensor(*[where[i] for i in value.order])

    return Value(te.compute(tuple(logical[i] for i in order), at, name="reshaped"), order)


def sorted_by(order: tuple[int, ...], index: tuple[Any, ...]) -> list[Any]:
    logical = dict(zip(order, index, strict=True))
    return [logical[i] for i in range(len(order))]


def permute(scope: Scope, node: fx.Node) -> Value:
    value = scope.read(args_of(node)[0])
    dims = list(args_of(node)[1])
    return Value(value.tensor, tuple(dims.index(i) for i in value.order))


def channel_shuffle(scope: Scope, node: fx.Node) -> Value:
    value = transposed(scope.read(args_of(node)[0]), CHANNELS_LAST)
    groups: int = args_of(node)[1]
    each = value.shape[-1] // groups
    out = te.compute(
        value.shape, lambda n, h, w, c: value.tensor(n, h, w, c % groups * each + c // groups), name="shuffled"
    )
    return Value(out, CHANNELS_LAST)


def pad(scope: Scope, node: fx.Node) -> Value:
    value = transposed(scope.read(args_of(node)[0]), CHANNELS_LAST)
    left, right, top, below = args_of(node)[1]
    if min(left, right, top, below) < 0:
        raise LoweringError(f"node {node.name}: negative padding {args_of(node)[1]}")
    return Value(pad_tensor(value.tensor, (top, below, left, right), float(args_of(node)[2])), CHANNELS_LAST)


def pad_by_image(scope: Scope, node: fx.Node) -> Value:
    value = transposed(scope.read(args_of(node)[0]), CHANNELS_LAST)
    left, _, top, _ = args_of(node)[1]
    mode: str = args_of(node)[2]
    channels, height, width = node.meta["shape"]
    _, rows, columns, _ = value.shape

    def at(n: Any, h: Any, w: Any, c: Any) -> Any:
        return value.tensor(n, folded(h, top, rows, mode), folded(w, left, columns, mode), c)

    return Value(te.compute((1, height, width, channels), at, name="padded"), CHANNELS_LAST)


def folded(i: Any, before: int, size: int, mode: str) -> Any:
    """Which row or column stands for one that may lie outside, `before` of which come first."""
    i, last = i - before, size - 1
    if mode == "reflect":
        return last - tirx.abs(last - tirx.abs(i))
    if mode == "replicate":
        return tirx.max(tirx.min(i, last), 0)
    return tirx.floormod(i, size)


def pad_channels(scope: Scope, node: fx.Node) -> Value:
    value = transposed(scope.read(args_of(node)[0]), CHANNELS_LAST)
    before, fill, own = args_of(node)[1], constant(args_of(node)[3]), value.shape[-1]
    channels, height, width = node.meta["shape"]

    def at(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = tirx.all(c >= before, c < before + own)
        return tirx.if_then_else(inside, value.tensor(n, h, w, c - before), fill)

    return Value(te.compute((1, height, width, channels), at, name="padded"), CHANNELS_LAST)


def upsample(scope: Scope, node: fx.Node) -> Value:
    value = transposed(scope.read(args_of(node)[0]), CHANNELS_LAST)
    down, across = args_of(node)[1]
    channels, height, width = node.meta["shape"]
    out = te.compute(
        (1, height, width, channels),
        lambda n, h, w, c: value.tensor(n, h // down, w // across, c),
        name="upsampled",
    )
    return Value(out, CHANNELS_LAST)
