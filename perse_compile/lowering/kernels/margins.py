"""Zeros around an image, written by the kernel that makes it, so that convolutions find their padding there.

Otherwise (padding.py) the image is copied into a larger buffer first.
"""

from __future__ import annotations

from torch import fx
from tvm import tirx

from perse_compile.lowering.choices import Choices
from perse_compile.lowering.defaults import can_winograd
from perse_compile.lowering.fuse import ELEMENTWISE, op_of
from perse_compile.lowering.kernels.padding import Margins, lowest, padding
from perse_compile.lowering.kernels.scope import Stored, args_of
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.strided import MARGINS, Strides, with_strides
from perse_compile.lowering.values import CHANNELS_LAST
from perse_compile.lowering.workload import of_conv

NARROW = 8  # up to this width, kernels that see rows as one long row gain more than a copy costs
NOT_NEGATIVE = {"relu", "relu6", "sigmoid", "hardsigmoid"}
READS_ROWS = {
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "mean",
    "pool_features",
    "affine",
}
NONE: Margins = (0, 0, 0, 0)


def needed(node: fx.Node, choices: Choices) -> Margins:
    """What an operation wants around its first input."""
    if op_of(node) not in ("conv2d", "max_pool2d", "avg_pool2d"):
        return NONE
    beyond = (0, 0)
    if op_of(node) == "conv2d":
        work = of_conv(node)
        knobs = choices.choose(work).knobs if can_winograd(work, choices.target) else None
        if isinstance(knobs, ConvKnobs) and (m := knobs.winograd):
            beyond = (-work.height % m, -work.width % m)
    return padding(node, beyond)


def wanted(node: fx.Node, choices: Choices) -> Margins:
    """The margins that serve all readers of an image; none where some reader would rather have it compact."""
    shape = node.meta["shape"]
    if len(shape) != 3 or shape[2] <= NARROW:
        return NONE
    around = [NONE]
    for user in node.users:
        pads = needed(user, choices)
        if any(pads) and (lowest(user) == 0 or _not_negative(node)):
            around.append(pads)
        elif not (any(pads) or op_of(user) in READS_ROWS | ELEMENTWISE):
            return NONE
    top, below, left, right = (max(sides) for sides in zip(*around, strict=True))
    return top, below, left, right


def _not_negative(node: fx.Node) -> bool:
    if op_of(node) == "concat":
        return all(_not_negative(source) for source in args_of(node)[0])
    return op_of(node) in NOT_NEGATIVE


def with_margins(name: str, shape: tuple[int, ...], margins: Margins) -> Stored:
    """An image (1,H,W,C) with margins around it."""
    if margins == NONE:
        return Stored(name, shape, CHANNELS_LAST)
    _, height, width, channels = shape
    top, below, left, right = margins
    row = (width + left + right) * channels
    size = (height + top + below) * row
    strides = Strides((size, row, channels, 1), size, top * row + left * channels)
    return Stored(name, shape, CHANNELS_LAST, strides=strides, margins=margins)


def write(func: tirx.PrimFunc, result: Stored) -> tirx.PrimFunc:
    """A kernel, not yet scheduled, made to put its result where `result` lies."""
    return func if result.strides is None else with_strides(func, {len(func.params) - 1: result.strides})


def begin(func: tirx.PrimFunc, image: Stored) -> tirx.PrimFunc:
    """A kernel that writes an image, or the first of those that write parts of it, made to put zeros around the image.

    The attribute says where: [size, first, rows, row, used]; row i of pixels is [first + i*row, first + i*row + used).
    """
    if image.margins == NONE:
        return func
    assert image.strides is not None
    _, height, width, channels = image.shape
    zeros = [image.strides.size, image.strides.offset, height, image.strides.steps[1], width * channels]
    return func.with_attr(MARGINS, zeros)
