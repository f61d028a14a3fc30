"""Direct convolution, 1x1 convolution and matrix product: one register-tiled template.

    acc[h,w,c] = sum over y,x,r of data[h*s+y, w*s+x, r] * weight[c/ob, y, x, r, c%ob]

A tile of rows x columns x ob accumulators stays in registers while y, x and r run: one input scalar is
broadcast against a vector of ob output channels. Weights are read in the order they lie in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tvm import s_tir, tirx

from perse_compile.lowering.schedules.common import divisor, open_schedule, vectorise
from perse_compile.lowering.schedules.prefetch import Walk, next_weights
from perse_compile.lowering.schedules.rows import Written, add_up
from perse_compile.lowering.schedules.statements import surround
from perse_compile.targets import Target

FEWEST_TASKS, SHORTEST_PIECE = 8, 48
STEP = 2  # multiplications in the time that a step of the innermost loop takes besides
ADDRESSES = 8  # pixels of one tile that may lie anywhere: each takes a register
# Instructions for one step of a tile on AArch64, besides its multiplications: of each vector of weights, which are
# loaded in pairs, of each pixel, and of each register too many. Counted in resnet50 (`tune --device emulator`).
PAIRED, ADDRESSED, SPILLED = 0.7, 0.9, 1.5
GAPS = 2  # multiplications in the time that it takes to find out where a pixel lies


@dataclass(frozen=True)
class ConvKnobs:
    """Sizes of the register tile and the order of the loops around it."""

    rows: int
    columns: int
    block: int  # output channels, `ob`
    unroll: int  # input channels
    channels_first: bool  # outermost loop over output channels, not over rows: weights stay in cache, data streams
    winograd: int = 0  # m of F(m,3), whose products the tile is of; 0 for direct convolution
    pieces: int = 0  # all pixels seen as so many long rows; 0 for the rows of the image
    ahead: int = 1  # weights fetched so many blocks ahead; 0 for not at all
    cost: float = field(default=0.0, compare=False, repr=False)  # relative


@dataclass(frozen=True)
class ConvShape:
    """One convolution: output height, width and channels, input channels of one group, kernel."""

    height: int
    width: int
    out_channels: int
    group_out: int
    group_in: int
    kernel: tuple[int, int]

    @property
    def macs(self) -> int:
        return self.height * self.width * self.out_channels * self.group_in * self.kernel[0] * self.kernel[1]

    def __str__(self) -> str:
        groups = self.out_channels // self.group_out
        kind = f"{self.kernel[0]}x{self.kernel[1]}" + (f" groups {groups}" if groups > 1 else "")
        return f"{kind} @{self.height}x{self.width} {self.group_in * groups}->{self.out_channels}"


def choose(
    shape: ConvShape,
    target: Target,
    rows: tuple[int, ...] = (1, 2, 3, 4),
    widest: int = 16,
    channels_first: bool = True,
) -> ConvKnobs:
    """Knobs without tuning: fill the registers, keep vectors whole, waste few columns.

    `rows`: heights allowed; `widest`: columns allowed.
    """
    lanes = target.lanes
    best: tuple[float, ConvKnobs] | None = None
    for block in blocks(shape, lanes):
        vectors = max(1, block // lanes)
        for high in rows:
            if shape.height % high:
                continue
            for columns in range(1, min(shape.width, widest) + 1):
                accumulators = high * columns * vectors
                inputs = high * columns if by_lane(target) else 5 if target.registers > 16 else 2
                if accumulators + vectors + inputs > target.registers and accumulators > 1:
                    continue  # LLVM spills otherwise
                cost = tile_cost(shape, (high, columns, block), target)
                unroll = divisor(shape.group_in, *((16,) if by_lane(target) else ()), 8, 4, 3, 2)
                knobs = ConvKnobs(high, columns, block, unroll, channels_first, cost=cost)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, knobs)
    assert best is not None
    return best[1]


def tile_cost(shape: ConvShape, tile: tuple[int, int, int], target: Target) -> float:
    """Of one multiply-accumulate, relative, in a tile of rows, columns and channels."""
    rows, columns, block = tile
    vectors = max(1, block // target.lanes)
    accumulators = rows * columns * vectors
    waste = _waste(shape.width, columns) * _waste(shape.group_out, block)
    if by_lane(target):
        pixels = rows * columns
        spilled = max(0, accumulators + vectors + pixels - target.registers)
        besides = PAIRED * vectors + ADDRESSED * pixels + SPILLED * spilled
    else:
        load_cost = {8: 0.5, 16: 0.25}.get(target.lanes, 1.0)  # AVX2 and AVX-512 fold loads into FMA
        besides = load_cost * (vectors + rows * columns / (4 if target.lanes == 4 else 1)) + STEP
    cost = waste * (accumulators + besides) / accumulators
    cost *= max(1.0, target.chains / accumulators)
    return cost * target.lanes / block if block < target.lanes else cost


def by_lane(target: Target) -> bool:
    """Whether a vector of weights is multiplied by one lane of four inputs of a pixel, as on AArch64.

    Every pixel of a tile then keeps a register for these.
    """
    return target.lanes == 4 and target.registers > 16


def pieces(pixels: int, out_channels: int, target: Target) -> tuple[int, int]:
    """A 1x1 convolution's pixels as pieces of equal length: as few as give all threads something to do."""
    wide = out_channels // (2 * target.lanes)
    for count in (1, 2, 4, 8):
        if wide * count >= FEWEST_TASKS:
            break
    while pixels % count or pixels // count < SHORTEST_PIECE:
        count //= 2
        if count <= 1:
            return 1, pixels
    return count, pixels // count


def blocks(shape: ConvShape, lanes: int) -> list[int]:
    """Numbers of output channels that a tile may have."""
    grouped = shape.group_out < shape.out_channels
    wide = [lanes * n for n in (2, 1, 3, 4, 6, 8)]
    if not grouped:
        return wide
    fitting = [b for b in wide if shape.group_out % b == 0]
    return fitting or [divisor(shape.group_out, lanes, lanes // 2, lanes // 4)]


def _waste(size: int, tile: int) -> float:
    """Whole tiles for `size`, relative to it."""
    return -(-size // tile) * tile / size


def schedule(func: tirx.PrimFunc, knobs: ConvKnobs, lanes: int) -> tirx.PrimFunc:
    """Given blocks "acc" (rows, columns, channels; y, x, r) and the last one (1, rows, columns, channels)."""
    sch, (acc, out) = open_schedule(func)
    weights = sch.get(acc).reads[-1].source
    h, w, c, y, x, r = sch.get_loops(acc)
    ho, hi = sch.split(h, [None, knobs.rows])
    wo, wi = sch.split(w, [None, knobs.columns])
    co, ci = sch.split(c, [None, knobs.block])
    ro, ri = sch.split(r, [None, knobs.unroll])
    outer = (co, ho) if knobs.channels_first else (ho, co)
    sch.reorder(*outer, wo, y, x, ro, ri, hi, wi, ci)
    high, wide = int(sch.get(ho).extent), int(sch.get(co).extent)
    task = sch.fuse(*outer)
    sch.parallel(task)
    sch.reverse_compute_at(out, wo, preserve_unit_loops=True)
    _finish_output(sch, out, knobs, lanes)
    sch.unroll(ri)
    sch.unroll(hi)
    sch.unroll(wi)
    vectorise(sch, ci, lanes)  # before the next step: TVM would refuse it afterwards
    *tile, vector = sch.get_loops(sch.decompose_reduction(acc, y))[2:]
    for loop in tile:
        sch.unroll(loop)
    sch.vectorize(vector)
    task_loop, column, *steps = (sch.get(loop) for loop in (task, wo, y, x, ro))
    number = task_loop.loop_var
    if knobs.channels_first:
        block, row = number // high, number % high
    else:
        block, row, high = number, 0, 1
        of_all = math.prod(int(size) for size in weights.shape) // _size(steps, knobs)
        if of_all < int(task_loop.extent):  # every row uses the same
            block = number % of_all
    requests = _next_weights(weights, knobs, block, (row, high), [column, *steps])
    func = surround(sch.mod["main"], steps[-1].loop_var, first=requests)
    at_row, at_block = (number % high, number // high) if knobs.channels_first else (number // wide, number % wide)
    written = Written(number, at_row * knobs.rows, knobs.rows, at_block * knobs.block, knobs.block)
    return add_up(func, written, lanes)


def _next_weights(
    weights: tirx.Buffer, knobs: ConvKnobs, block: Any, row: tuple[Any, int], loops: list[tirx.For]
) -> list[tirx.Stmt]:
    """`row`: which of how many that use the same weights; `loops`: over columns, y, x, r."""
    column, y, x, r = (loop.loop_var for loop in loops)
    wide, _, broad, steps = (int(loop.extent) for loop in loops)
    walk = Walk(
        weights=weights,
        block=block,
        block_size=_size(loops[1:], knobs),
        passes=row[1] * wide,
        at_pass=row[0] * wide + column,
        at_step=(y * broad + x) * steps + r,
        step_size=knobs.unroll * knobs.block,
    )
    return next_weights(walk, knobs.ahead)


def _size(loops: list[tirx.For], knobs: ConvKnobs) -> int:
    """Floats of one block of weights; `loops`: over y, x, r."""
    return math.prod(int(loop.extent) for loop in loops) * knobs.unroll * knobs.block


def _finish_output(sch: s_tir.Schedule, out: object, knobs: ConvKnobs, lanes: int) -> None:
    channels = int(sch.mod["main"].params[-1].shape[-1])
    loops = sch.get_loops(out)
    h, w, c = loops[-3:]
    size = int(sch.get(c).extent)
    if channels % knobs.block and size > lanes:  # the last block goes beyond the last channel, whole vectors do not
        vectors, c = sch.split(c, [None, lanes])
        sch.unroll(vectors)
        sch.vectorize(c)
    elif size == knobs.block:
        vectorise(sch, c, lanes)
    sch.unroll(w)
    sch.unroll(h)
