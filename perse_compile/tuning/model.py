"""What knobs cost by arithmetic: where a search begins, and what ranks candidates where nothing can be measured.

The unit is the time of one multiply-accumulate at the processor's peak. It weighs register tiles, wasted columns and
channels, loop steps, weights and images that are read again from beyond the cache, and Winograd's transforms.
"""

from __future__ import annotations

from perse_compile.lowering import defaults
from perse_compile.lowering.choices import Knobs
from perse_compile.lowering.legal import tiled_shape
from perse_compile.lowering.schedules import conv
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target

USUAL_TILE = 1.4  # cost of a multiply-accumulate in a good tile: what defaults.py counts as one
AGAIN = 0.25  # of a byte that is read again from beyond the nearest cache
STEP = 4  # of a loop step that is not written out
LATENCY = 8  # independent accumulators that hide it


def points(work: Workload, knobs: Knobs, target: Target) -> float:
    """Relative time of one run."""
    if isinstance(knobs, ConvKnobs):
        return _winograd(work, knobs, target) if knobs.winograd else _direct(work, knobs, target)
    if isinstance(knobs, DepthwiseKnobs):
        return _window(work, knobs, target)
    lines = work.in_channels * work.out_channels / target.lanes
    return lines * (1 + 1 / knobs.rows) + 500 * knobs.pieces


def executed(work: Workload, knobs: Knobs, target: Target) -> float:
    """The part of `points` that is instructions, of knobs of one structure."""
    if isinstance(knobs, ConvKnobs):
        return work.macs * _tile(work, knobs, target)
    return points(work, knobs, target)


def _tile(work: Workload, knobs: ConvKnobs, target: Target) -> float:
    shape = tiled_shape(work, knobs.winograd, knobs.pieces)
    cost = conv.tile_cost(shape, (knobs.rows, knobs.columns, knobs.block), target)
    accumulators = knobs.rows * knobs.columns * max(1, knobs.block // target.lanes)
    return cost + conv.STEP / accumulators / knobs.unroll


def _direct(work: Workload, knobs: ConvKnobs, target: Target) -> float:
    taps = work.kernel[0] * work.kernel[1]
    cost = work.macs * _tile(work, knobs, target) / target.lanes
    if knobs.pieces and work.gaps:
        cost *= 1 + conv.GAPS / work.group_in / taps
        if not work.plain and knobs.rows * knobs.columns > conv.ADDRESSES:
            cost *= 1.25
    weights = 4 * taps * work.group_in * work.out_channels
    image = 4 * work.in_channels * work.pixels * work.stride[0] * work.stride[1]
    rows = (knobs.pieces or work.height) // knobs.rows
    cache = target.l2_kilobytes * 1024
    if knobs.channels_first:
        again = image * (-(-work.group_out // knobs.block) - 1) if image > cache else 0
    else:
        again = weights * (rows - 1) if weights > cache // 2 else 0
    late = 0.5 if knobs.ahead == 0 else 0.0
    return cost + AGAIN * again + (AGAIN + late) * weights


def _winograd(work: Workload, knobs: ConvKnobs, target: Target) -> float:
    m = knobs.winograd
    shape = defaults.product_shape(work, m)
    values = shape.height * shape.width * (work.in_channels + work.out_channels)
    spilled = 8 * values if 4 * values > target.l2_kilobytes * 1024 else 0
    weights = 4 * shape.height * work.in_channels * work.out_channels
    products = max(shape.macs * _tile(work, knobs, target), USUAL_TILE * defaults.WEIGHT_BYTE * weights)
    around = defaults.SPECTRUM_BYTE * spilled + defaults.TRANSFORM * values / shape.height
    return (products + USUAL_TILE * around) / target.lanes


def _window(work: Workload, knobs: DepthwiseKnobs, target: Target) -> float:
    tall, wide = work.kernel
    vectors = max(1, knobs.block // target.lanes)
    accumulators = knobs.rows * knobs.columns * vectors
    steps = (1 if knobs.unroll_y else tall) * (1 if knobs.unroll_x else wide)
    loads = vectors if work.family == "depthwise" else 0
    of_taps = tall * wide * (accumulators * max(1.0, LATENCY / accumulators) + loads)
    tiles = work.pixels * work.out_channels / (knobs.rows * knobs.columns * knobs.block)
    again = 0.0 if knobs.channels_last else 0.02 * accumulators * tall * wide
    return tiles * (of_taps + STEP * steps + 2 * accumulators + again)
