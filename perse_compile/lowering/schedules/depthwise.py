"""Depthwise convolution and pooling: a few rows, columns and vectors of channels, all taps of a row unrolled."""

from __future__ import annotations

from tvm import tirx

from perse_compile.lowering.schedules.common import divisor, open_schedule, vectorise
from perse_compile.targets import Target

FEW_WEIGHTS = 2048  # floats that stay in the first cache while all channels of a tile are done


def schedule(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Given blocks "acc" (rows, columns, channels; y, x) and the last one (1, rows, columns, channels)."""
    sch, (acc, out) = open_schedule(func)
    h, w, c, y, x = sch.get_loops(acc)
    height, width, channels, tall, wide = (int(sch.get(loop).extent) for loop in (h, w, c, y, x))
    rows, columns, block = tile(height, width, channels, target)
    ho, hi = sch.split(h, [None, rows])
    wo, wi = sch.split(w, [None, columns])
    co, ci = sch.split(c, [None, block])
    # a tile of all channels where their weights stay near, else a row of few channels
    inner = (wo, co) if tall * wide * channels <= FEW_WEIGHTS else (co, wo)
    sch.reorder(ho, *inner, y, x, hi, wi, ci)
    sch.parallel(ho)
    sch.reverse_compute_at(out, inner[1], preserve_unit_loops=True)
    *_, oh, ow, oc = sch.get_loops(out)
    if block > 1:
        vectorise(sch, oc, min(block, target.lanes))
        vectorise(sch, ci, min(block, target.lanes))
    for loop in (oh, ow, hi, wi):
        sch.unroll(loop)
    if wide <= 7:
        sch.unroll(x)
    if tall * wide <= 9 or (rows == 1 and tall * wide <= 25):
        sch.unroll(y)
    *_, ih, iw, ic = sch.get_loops(sch.decompose_reduction(acc, y))
    sch.unroll(ih)
    sch.unroll(iw)
    if block > 1:
        sch.vectorize(ic)
    return sch.mod["main"]


def tile(height: int, width: int, channels: int, target: Target) -> tuple[int, int, int]:
    """Rows, columns and channels at a time: measured best of those that divide the image."""
    lanes = target.lanes
    several = 2 if target.registers <= 16 else 4
    if height % 2 == width % 2 == 0:
        block = divisor(channels, several * lanes, 2 * lanes, lanes)
        return 2, 2 if block > lanes else divisor(width, 4, 2), block
    block = lanes if target.registers <= 16 else 2 * lanes
    return 1, divisor(width, 7, 4, 5, 3, 2), divisor(channels, block, lanes)
