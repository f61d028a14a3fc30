"""Copies into zero-padded buffers, so that kernels need no bounds checks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import fx
from tvm import te, tirx

from perse_compile.lowering.expressions import constant
from perse_compile.lowering.fuse import op_of
from perse_compile.lowering.kernels.scope import KernelCall, Scope, Stored, args_of
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.strided import with_strides

Margins = tuple[int, int, int, int]  # top, bottom, left, right


def padding(node: fx.Node, beyond: tuple[int, int] = (0, 0)) -> Margins:
    """What a kernel without bounds checks needs around its input.

    `beyond`: rows and columns more that it computes and throws away.
    """
    op = op_of(node)
    _, height, width = args_of(node)[0].meta["shape"]
    _, out_h, out_w = node.meta["shape"]
    if op == "conv2d":
        (kh, kw) = args_of(node)[1].meta["shape"][2:]
        (sh, sw), (ph, pw), (dh, dw) = args_of(node)[3:6]
    else:
        (kh, kw), (sh, sw), (ph, pw) = args_of(node)[1:4]
        dh, dw = args_of(node)[4] if op == "max_pool2d" else (1, 1)
    below = max(0, (out_h + beyond[0] - 1) * sh + (kh - 1) * dh + 1 - height - ph)
    right = max(0, (out_w + beyond[1] - 1) * sw + (kw - 1) * dw + 1 - width - pw)
    return ph, below, pw, right


def padded_input(scope: Scope, node: fx.Node, beyond: tuple[int, int] = (0, 0)) -> te.Tensor:
    """The node's input with all that `padding` says around it; the copy, where one is needed, runs before."""
    stored = scope.values[args_of(node)[0].name]
    pads = padding(node, beyond)
    if not any(pads):
        return scope.place(stored, stored.shape).tensor
    if all(there >= needed for there, needed in zip(stored.margins, pads, strict=True)):
        return scope.place(_with_its_margins(stored, pads), grown(stored.shape, pads)).tensor
    stored = _copy_padded(scope, stored, pads, f"{node.name}.padded", lowest(node))
    return scope.place(stored, stored.shape).tensor


def grown(shape: tuple[int, ...], pads: Margins) -> tuple[int, ...]:
    """An image's shape with its margins."""
    n, height, width, channels = shape
    return n, height + pads[0] + pads[1], width + pads[2] + pads[3], channels


def _with_its_margins(stored: Stored, pads: Margins) -> Stored:
    """The same memory, seen with some of the zeros around the image."""
    assert stored.strides is not None
    _, row, pixel, _ = stored.strides.steps
    strides = replace(stored.strides, offset=stored.strides.offset - pads[0] * row - pads[2] * pixel)
    return replace(stored, shape=grown(stored.shape, pads), strides=strides)


def lowest(node: fx.Node) -> float:
    """What padding holds: a value that changes nothing."""
    return -3.4028234663852886e38 if op_of(node) == "max_pool2d" else 0.0


def _copy_padded(scope: Scope, source: Stored, pads: Margins, name: str, fill: float) -> Stored:
    data = source.as_value()
    tensor = pad_tensor(data.tensor, pads, fill)
    shape = grown(source.shape, pads)
    func = with_strides(te.create_prim_func([data.tensor, tensor]), {0: source.strides} if source.strides else {})
    schedule = partial(elementwise.schedule, target=scope.target)
    scope.before.append(KernelCall("pad", func, schedule, [(source.name, source.memory)], name, shape))
    return Stored(name, shape, source.order)


def pad_tensor(data: te.Tensor, pads: Margins, fill: float) -> te.Tensor:
    _, height, width, channels = (int(size) for size in data.shape)
    top, below, left, right = pads

    def at(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = tirx.all(h >= top, h < top + height, w >= left, w < left + width)
        return tirx.if_then_else(inside, data[n, h - top, w - left, c], constant(fill))

    return te.compute((1, height + top + below, width + left + right, channels), at, name="padded")
