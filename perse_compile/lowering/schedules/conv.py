"""Direct convolution, 1x1 convolution and matrix product: one register-tiled template.

    acc[h,w,c] = sum over y,x,r of data[h*s+y, w*s+x, r] * weight[c/ob, y, x, r, c%ob]

A tile of rows x columns x ob accumulators stays in registers while y, x and r run: one input scalar is
broadcast against a vector of ob output channels. Weights are read in the order they lie in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir, tirx

from perse_compile.lowering.schedules.common import divisor, open_schedule
from perse_compile.targets import Target

CHAINS = 8  # independent accumulators that hide the latency of FMA: 4 cycles, two a cycle


@dataclass(frozen=True)
class ConvKnobs:
    """Sizes of the register tile and the order of the loops around it."""

    rows: int
    columns: int
    block: int  # output channels, `ob`
    unroll: int  # input channels
    channels_first: bool  # outermost loop over output channels: weights stay in cache, data streams


@dataclass(frozen=True)
class ConvShape:
    """One convolution: output height, width and channels, input channels of one group, kernel."""

    height: int
    width: int
    out_channels: int
    group_out: int
    group_in: int
    kernel: tuple[int, int]


def choose(shape: ConvShape, target: Target) -> ConvKnobs:
    """Knobs without tuning: fill the registers, keep vectors whole, waste few columns."""
    lanes = target.lanes
    load_cost = 1.0 if target.registers > 16 else 0.1  # AVX2 folds loads into FMA and issues two a cycle
    best: tuple[float, ConvKnobs] | None = None
    for block in _blocks(shape, lanes):
        vectors = max(1, block // lanes)
        for rows in (1, 2, 3, 4):
            if shape.height % rows:
                continue
            for columns in range(1, min(shape.width, 16) + 1):
                accumulators = rows * columns * vectors
                if accumulators + vectors + 2 > target.registers and accumulators > 1:
                    continue  # one for the broadcast input, one to spare: LLVM spills otherwise
                waste = -(-shape.width // columns) * columns / shape.width
                loads = vectors + rows * columns / (4 if target.lanes == 4 else 1)  # NEON multiplies by a lane
                cost = waste * (accumulators + load_cost * loads) / accumulators
                cost *= max(1.0, CHAINS / accumulators)
                if block < lanes:
                    cost *= lanes / block
                knobs = ConvKnobs(rows, columns, block, divisor(shape.group_in, 8, 4, 3, 2), True)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, knobs)
    assert best is not None
    return best[1]


def _blocks(shape: ConvShape, lanes: int) -> list[int]:
    grouped = shape.group_out < shape.out_channels
    wide = [lanes * n for n in (2, 1, 3, 4, 6, 8)]
    fitting = [b for b in wide if shape.group_out % b == 0]
    if fitting:
        return fitting
    if grouped:
        return [divisor(shape.group_out, lanes, lanes // 2, lanes // 4)]
    return [lanes, 2 * lanes] if shape.group_out > lanes else [lanes]


def schedule(func: tirx.PrimFunc, knobs: ConvKnobs) -> tirx.PrimFunc:
    """Given blocks "acc" (rows, columns, channels; y, x, r) and the last one (1, rows, columns, channels)."""
    sch, (acc, out) = open_schedule(func)
    h, w, c, y, x, r = sch.get_loops(acc)
    ho, hi = sch.split(h, [None, knobs.rows])
    wo, wi = sch.split(w, [None, knobs.columns])
    co, ci = sch.split(c, [None, knobs.block])
    ro, ri = sch.split(r, [None, knobs.unroll])
    if knobs.channels_first:
        sch.reorder(co, ho, wo, y, x, ro, ri, hi, wi, ci)
        inner = wo
        parallel = sch.fuse(co, ho)
    else:
        sch.reorder(ho, wo, co, y, x, ro, ri, hi, wi, ci)
        inner = co
        parallel = ho
    sch.parallel(parallel)
    sch.reverse_compute_at(out, inner, preserve_unit_loops=True)
    _finish_output(sch, out, knobs)
    sch.unroll(ri)
    sch.unroll(hi)
    sch.unroll(wi)
    sch.vectorize(ci)
    init = sch.decompose_reduction(acc, y)
    *_, ih, iw, ic = sch.get_loops(init)
    sch.unroll(ih)
    sch.unroll(iw)
    sch.vectorize(ic)
    return sch.mod["main"]


def _finish_output(sch: s_tir.Schedule, out: object, knobs: ConvKnobs) -> None:
    loops = sch.get_loops(out)
    h, w, c = loops[-3:]
    if int(sch.get(c).extent) == knobs.block:
        sch.vectorize(c)
    sch.unroll(w)
    sch.unroll(h)
