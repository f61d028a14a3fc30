"""Depthwise convolution and pooling: a few rows, columns and vectors of channels, all taps of a row unrolled."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from perse_compile.lowering.schedules.common import divisor, open_schedule, vectorise
from perse_compile.lowering.schedules.rows import Written, add_up
from perse_compile.targets import Target

FEW_WEIGHTS = 2048  # floats that stay in the first cache while all channels of a tile are done


@dataclass(frozen=True)
class DepthwiseKnobs:
    """Sizes of the tile, the order of the loops around it, and which loops over taps are written out."""

    rows: int
    columns: int
    block: int  # channels
    channels_last: bool  # all channels of a tile, then the next tile; else all columns of a block, then the next block
    unroll_y: bool
    unroll_x: bool


def choose(
    size: tuple[int, int], channels: int, window: tuple[int, int], stride: tuple[int, int], target: Target
) -> DepthwiseKnobs:
    """Knobs without tuning: measured best of those that divide the image, of this height and width."""
    rows, columns, block = tile(*size, channels, stride, target)
    taps = window[0] * window[1]
    if block == 1 and 9 < taps <= 25:  # LLVM makes vectors of the channels if these alone are left to loop over
        return DepthwiseKnobs(1, columns, 1, channels_last=True, unroll_y=True, unroll_x=True)
    return DepthwiseKnobs(
        rows,
        columns,
        block,
        channels_last=taps * channels <= FEW_WEIGHTS,
        unroll_y=taps <= 9 or (rows == 1 and taps <= 25),
        unroll_x=window[1] <= 7,
    )


def schedule(func: tirx.PrimFunc, knobs: DepthwiseKnobs, lanes: int) -> tirx.PrimFunc:
    """Given blocks "acc" (rows, columns, channels; y, x) and the last one (1, rows, columns, channels)."""
    sch, (acc, out) = open_schedule(func)
    h, w, c, y, x = sch.get_loops(acc)
    block = knobs.block
    ho, hi = sch.split(h, [None, knobs.rows])
    wo, wi = sch.split(w, [None, knobs.columns])
    co, ci = sch.split(c, [None, block])
    inner = (wo, co) if knobs.channels_last else (co, wo)
    sch.reorder(ho, *inner, y, x, hi, wi, ci)
    sch.parallel(ho)
    sch.reverse_compute_at(out, inner[1], preserve_unit_loops=True)
    *_, oh, ow, oc = sch.get_loops(out)
    if block > 1:
        vectorise(sch, oc, min(block, lanes))
        vectorise(sch, ci, min(block, lanes))
    for loop in (oh, ow, hi, wi):
        sch.unroll(loop)
    if knobs.unroll_x:
        sch.unroll(x)
    if knobs.unroll_y:
        sch.unroll(y)
    *_, ih, iw, ic = sch.get_loops(sch.decompose_reduction(acc, y))
    sch.unroll(ih)
    sch.unroll(iw)
    if block > 1:
        sch.vectorize(ic)
    func, task = sch.mod["main"], sch.get(ho).loop_var
    return add_up(func, Written(task, task * knobs.rows, knobs.rows, 0, int(func.params[-1].shape[-1])), lanes)


def tile(height: int, width: int, channels: int, stride: tuple[int, int], target: Target) -> tuple[int, int, int]:
    """Rows, columns and channels at a time."""
    lanes = target.lanes
    even = height % 2 == width % 2 == 0
    if even and stride == (1, 1) and lanes >= 16 and channels % lanes == 0:  # a vector is several of others' already
        return 2, divisor(width, 7, 4, 2), lanes
    several = 2 if target.registers <= 16 else 4
    if even:
        block = divisor(channels, several * lanes, 2 * lanes, lanes)
        return 2, 2 if block > lanes else divisor(width, 4, 2), block
    block = lanes if target.registers <= 16 else 2 * lanes
    return 1, divisor(width, 7, 4, 5, 3, 2), divisor(channels, block, lanes)
