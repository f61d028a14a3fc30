"""Which knobs a workload may have: those that divide what they must, and whose tile fits the registers."""

from __future__ import annotations

from dataclasses import replace

from perse_compile.lowering import defaults
from perse_compile.lowering.schedules.conv import ConvKnobs, ConvShape, blocks
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.schedules.elementwise import LONGEST_ROW, HeadKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target

MOST_UNROLLED = 640  # multiplications written out in one loop body: more is slow to compile and to fetch
FARTHEST_AHEAD = 4  # blocks of weights


def is_legal(work: Workload, knobs: object, target: Target) -> bool:
    """Whether these are knobs of the workload's family, and all of them may have these values."""
    if work.family in ("conv", "product"):
        return isinstance(knobs, ConvKnobs) and _conv(work, knobs, target)
    if work.family == "head":
        return isinstance(knobs, HeadKnobs) and _head(work, knobs)
    return isinstance(knobs, DepthwiseKnobs) and _window(work, knobs, target)


def tiled_shape(work: Workload, winograd: int, pieces: int) -> ConvShape:
    """What the register tile is of: the image, all pixels as a few long rows, or Winograd's products."""
    if winograd:
        return defaults.product_shape(work, winograd)
    shape = defaults.shape_of(work)
    return replace(shape, height=pieces, width=work.pixels // pieces) if pieces else shape


def _conv(work: Workload, knobs: ConvKnobs, target: Target) -> bool:
    m, pieces = knobs.winograd, knobs.pieces
    if m and (pieces or m not in defaults.TILES or not defaults.can_winograd(work, target)):
        return False
    if m and (knobs.rows > 1 or (knobs.channels_first and knobs.ahead)):
        return False  # every row has weights of its own
    if pieces and (pieces < 0 or work.pixels % pieces or work.family == "product"):
        return False
    shape = tiled_shape(work, m, pieces)
    vectors = max(1, knobs.block // target.lanes)
    sizes_fit = (
        min(knobs.rows, knobs.columns, knobs.unroll) > 0
        and shape.height % knobs.rows == 0
        and knobs.columns <= shape.width
        and knobs.block in blocks(shape, target.lanes)
        and shape.group_in % knobs.unroll == 0
        and 0 <= knobs.ahead <= FARTHEST_AHEAD
    )
    return (
        sizes_fit
        and fits_registers(knobs.rows * knobs.columns, vectors, target)
        and knobs.rows * knobs.columns * vectors * knobs.unroll <= MOST_UNROLLED
    )


def fits_registers(pixels: int, vectors: int, target: Target) -> bool:
    """Accumulators, a vector of weights or data each, the broadcast input, and one to spare: LLVM spills otherwise."""
    return pixels * vectors == 1 or pixels * vectors + vectors + 2 <= target.registers


def _window(work: Workload, knobs: DepthwiseKnobs, target: Target) -> bool:
    if min(knobs.rows, knobs.columns, knobs.block) < 1:
        return False
    if work.height % knobs.rows or work.width % knobs.columns or work.out_channels % knobs.block:
        return False
    if knobs.block % target.lanes and (knobs.block > 1 or work.out_channels % target.lanes == 0):
        return False  # whole vectors wherever they divide the channels
    vectors = max(1, knobs.block // target.lanes)
    tall, wide = work.kernel
    taps = (tall if knobs.unroll_y else 1) * (wide if knobs.unroll_x else 1)
    accumulators = knobs.rows * knobs.columns * vectors
    return accumulators + vectors + 1 <= target.registers and accumulators * taps <= MOST_UNROLLED


def _head(work: Workload, knobs: HeadKnobs) -> bool:
    if min(knobs.pieces, knobs.rows) < 1 or knobs.rows > 16 or work.in_channels % (knobs.pieces * knobs.rows):
        return False
    return knobs.pieces == 1 or knobs.pieces * work.out_channels <= LONGEST_ROW
