"""Knobs without tuning: a few lines of arithmetic for every family, measured on the common layers."""

from __future__ import annotations

from dataclasses import replace

from perse_compile.lowering.schedules import conv, depthwise, elementwise
from perse_compile.lowering.schedules.conv import ConvKnobs, ConvShape
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.schedules.elementwise import HeadKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target

# Costs of Winograd in multiply-accumulates that take as long, measured with benchmarks/layers.py.
TRANSFORM = 300  # of one channel of one tile, one way
WEIGHT_BYTE = 3  # of weights, which are read once per image
SPECTRUM_BYTE = 1.6  # of what lies between the three kernels, where it does not fit the cache
TILES = (2, 4)  # m of F(m,3)


def shape_of(work: Workload) -> ConvShape:
    return ConvShape(work.height, work.width, work.out_channels, work.group_out, work.group_in, work.kernel)


def product_shape(work: Workload, m: int) -> ConvShape:
    """The products in the middle of Winograd's convolution: one row for each value of a tile."""
    tiles = -(-work.height // m) * -(-work.width // m)
    return ConvShape((m + 2) ** 2, tiles, work.out_channels, work.out_channels, work.in_channels, (1, 1))


def can_winograd(work: Workload, target: Target) -> bool:
    plain = (work.kernel, work.stride, work.dilation) == ((3, 3), (1, 1), (1, 1))
    return work.family == "conv" and plain and work.groups == 1 and work.out_channels % target.lanes == 0


def tile_size(work: Workload, target: Target) -> int:
    """m of the cheapest F(m,3) for this convolution, or 0 where the direct way is cheaper."""
    if not can_winograd(work, target):
        return 0
    channels, filters = work.in_channels, work.out_channels

    def cost(m: int) -> float:
        if m == 0:
            return max(work.macs, WEIGHT_BYTE * 36 * channels * filters)
        tiles = -(-work.height // m) * -(-work.width // m)
        values = (m + 2) ** 2 * tiles * (channels + filters)
        products = max((m + 2) ** 2 * tiles * channels * filters, WEIGHT_BYTE * 4 * (m + 2) ** 2 * channels * filters)
        spilled = 8 * values if 4 * values > target.l2_kilobytes * 1024 else 0  # written and read
        return products + SPECTRUM_BYTE * spilled + TRANSFORM * values / 36

    return min((0, *TILES), key=cost)


def conv_knobs(work: Workload, target: Target) -> ConvKnobs:
    """Winograd, or directly row by row, or directly with all pixels as a few long rows."""
    if m := tile_size(work, target):
        knobs = conv.choose(product_shape(work, m), target, rows=(1,), channels_first=False)
        return replace(knobs, winograd=m)
    shape = shape_of(work)
    parts, length = conv.pieces(work.pixels, work.out_channels, target)
    knobs = conv.choose(shape, target)
    widest = 16 if work.plain else conv.ADDRESSES
    merged = conv.choose(replace(shape, height=parts, width=length), target, widest=widest)
    where = 1 + conv.GAPS / shape.group_in / work.kernel[0] / work.kernel[1] if work.gaps else 1
    return replace(merged, pieces=parts) if merged.cost * where <= knobs.cost else knobs


def product_knobs(work: Workload, target: Target) -> ConvKnobs:
    return conv.choose(shape_of(work), target)


def window_knobs(work: Workload, target: Target) -> DepthwiseKnobs:
    return depthwise.choose((work.height, work.width), work.out_channels, work.kernel, work.stride, target)


def head_knobs(work: Workload, target: Target) -> HeadKnobs:
    return elementwise.choose_product(work.in_channels, work.out_channels, target)
