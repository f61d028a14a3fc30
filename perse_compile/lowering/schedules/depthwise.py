"""Depthwise convolution and pooling: a vector of channels, a few columns, all taps unrolled."""

from __future__ import annotations

from tvm import tirx

from perse_compile.lowering.schedules.common import divisor, open_schedule
from perse_compile.targets import Target


def schedule(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Given blocks "acc" (rows, columns, channels; y, x) and the last one (1, rows, columns, channels)."""
    sch, (acc, out) = open_schedule(func)
    h, w, c, y, x = sch.get_loops(acc)
    width, channels = int(sch.get(w).extent), int(sch.get(c).extent)
    lanes = target.lanes
    block = (
        divisor(channels, 4 * lanes, 2 * lanes, lanes) if target.registers > 16 else divisor(channels, 2 * lanes, lanes)
    )
    columns = divisor(width, 4, 7, 3, 2)
    taps = int(sch.get(y).extent) * int(sch.get(x).extent)
    wo, wi = sch.split(w, [None, columns])
    co, ci = sch.split(c, [None, block])
    sch.reorder(h, wo, co, y, x, wi, ci)
    sch.parallel(h)
    sch.reverse_compute_at(out, co, preserve_unit_loops=True)
    *_, ow, oc = sch.get_loops(out)
    if block > 1:
        sch.vectorize(oc)
        sch.vectorize(ci)
    sch.unroll(ow)
    sch.unroll(wi)
    if taps <= 25:
        sch.unroll(x)
        sch.unroll(y)
    init = sch.decompose_reduction(acc, y)
    *_, iw, ic = sch.get_loops(init)
    sch.unroll(iw)
    if block > 1:
        sch.vectorize(ic)
    return sch.mod["main"]
