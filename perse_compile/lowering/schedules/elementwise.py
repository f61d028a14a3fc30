"""Element-wise and data-moving chains, small reductions, and whatever has no family of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

from perse_compile.lowering.schedules.common import child_blocks, divisor, open_schedule
from perse_compile.targets import Target

ENOUGH_ROWS = 14  # to share among threads
LONGEST_ROW = 8192  # sums that stay near, and fit a kernel's workspace
SHORT_RUN = 64  # floats one after the other that are worth going elsewhere for
PIECES = (8, 4, 2)  # of a product's rows
WORTH_THREADS = 16384  # iterations of a cheap loop nest below which one thread is faster


def schedule(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """One loop nest: everything is inlined into the last block."""
    sch, (out,) = open_schedule(func, keep=())
    spread(sch, sch.get_loops(out), target)
    return sch.mod["main"]


def schedule_mean(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Given "acc" (.., channels; the reduced ones) and the last block: long runs of channels, a few pixels at once."""
    sch, (acc, out) = open_schedule(func)
    loops = sch.get_loops(acc)
    spatial = sum(each.iter_type != tirx.IterVar.CommReduce for each in sch.get(acc).iter_vars)
    *windows, c = loops[:spatial]
    *reduced, x = loops[spatial:]
    extent = int(sch.get(c).extent)
    lanes = row_lanes(extent, target)
    co, cm, ci = sch.split(c, [extent // _run(extent, lanes), None, lanes])
    xo, xi = sch.split(x, [None, divisor(int(sch.get(x).extent), 8, 7, 6, 5, 4, 3, 2)])
    sch.reorder(*windows, co, *reduced, xo, cm, xi, ci)
    sch.unroll(xi)
    if lanes > 1:
        sch.vectorize(ci)
    alone = math.prod(int(sch.get(loop).extent) for loop in windows) == 1
    task = _parallel(sch, [*windows, co], sch.get_loops(acc))
    if alone:
        sch.reverse_compute_at(out, task, preserve_unit_loops=True)
        vectorise_innermost(sch, out, lanes)
    vectorise_innermost(sch, sch.decompose_reduction(acc, reduced[0] if reduced else xo), lanes)
    return sch.mod["main"]


def _run(extent: int, lanes: int) -> int:
    """Channels one after the other: long runs, but eight of them, and no longer than what stays near."""
    runs = [run for run in range(lanes, min(extent, LONGEST_ROW) + 1, lanes) if extent % run == 0]
    return next((run for run in runs if run >= SHORT_RUN and run >= extent // 8), runs[-1])


@dataclass(frozen=True)
class HeadKnobs:
    """How a vector times a matrix goes through the matrix."""

    pieces: int  # of the rows, each summed by itself, for threads
    rows: int  # at once


def choose_product(rows: int, columns: int, target: Target) -> HeadKnobs:
    """Knobs without tuning."""
    fair = (n for n in PIECES if rows % n == 0 and n * columns <= LONGEST_ROW and rows * columns >= n * WORTH_THREADS)
    pieces = next(fair, 1)
    return HeadKnobs(pieces, divisor(rows // pieces, 8, 4, 2))


def row_lanes(columns: int, target: Target) -> int:
    return divisor(columns, target.lanes, target.lanes // 2)


def schedule_product(func: tirx.PrimFunc, knobs: HeadKnobs, target: Target) -> tirx.PrimFunc:
    """Given "acc" (columns; rows) and the last block (1, columns), a vector times a matrix [rows][columns].

    The matrix is read once, which is what takes the time: a few whole rows at once, in the order in which they lie.
    Every thread takes pieces of the rows; the pieces' sums are added in their order.
    """
    sch, (acc, out) = open_schedule(func)
    c, r = sch.get_loops(acc)
    columns = int(sch.get(c).extent)
    lanes = row_lanes(columns, target)
    if columns > LONGEST_ROW:
        return schedule_mean(func, target)
    if knobs.pieces > 1:
        total = acc
        acc = sch.rfactor(sch.split(r, [knobs.pieces, None])[0], 0)
        c, piece, r = sch.get_loops(acc)
        sch.reorder(piece, c, r)
        sch.parallel(piece)
        each, summed = sch.get_loops(total)
        sch.reorder(summed, each)
        vectorise_innermost(sch, total, lanes)
        vectorise_innermost(sch, sch.decompose_reduction(total, summed), lanes)
    ro, ri = sch.split(r, [None, knobs.rows])
    cm, ci = sch.split(c, [None, lanes])
    sch.reorder(ro, cm, ri, ci)
    sch.unroll(ri)
    if lanes > 1:
        sch.vectorize(ci)
    for block in (out, sch.decompose_reduction(acc, ro)):
        vectorise_innermost(sch, block, lanes)
    return sch.mod["main"]


def vectorise_innermost(sch: s_tir.Schedule, block: Any, lanes: int) -> None:
    loop = sch.get_loops(block)[-1]
    if lanes > 1:
        sch.vectorize(loop if int(sch.get(loop).extent) == lanes else sch.split(loop, [None, lanes])[1])


def schedule_layer_norm(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Given "total", "square" (pixels; channels) and the last block (pixels, channels): row by row of pixels."""
    sch, (total, square, out) = open_schedule(func, keep=("total", "square"))
    *pixels, channels = sch.get_loops(out)
    row = _parallel(sch, pixels[:-1] or pixels, [*pixels, channels])
    _vectorise(sch, channels, target)
    for block in (square, total):
        sch.compute_at(block, row, preserve_unit_loops=True)
        *_, pixel, reduced = sch.get_loops(block)
        sch.reorder(reduced, pixel)
        _vectorise(sch, pixel, target)
        last = sch.get_loops(sch.decompose_reduction(block, reduced))[-1]
        if int(sch.get(last).extent) > 1:
            sch.vectorize(last)
    return sch.mod["main"]


def schedule_any(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Each block on its own: outer loop parallel, innermost vectorised where nothing is reduced, products reordered."""
    sch = s_tir.Schedule(func)
    for block in child_blocks(sch)[:-1]:
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            continue  # a reduction, or read by more than one block that cannot take it
    placed: set[str] = set()
    for block in child_blocks(sch):
        if sch.get(block).name_hint in placed:
            continue
        kinds = [iter_var.iter_type for iter_var in sch.get(block).iter_vars]
        loops = sch.get_loops(block)
        if not loops:
            continue
        spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.CommReduce]
        reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
        if not spatial:
            continue
        if reduced and len(spatial) >= 2:
            spatial = shorter_rows(sch, spatial)
            sch.reorder(*spatial[:-1], *reduced, spatial[-1])
            row = _parallel(sch, spatial[:-1], [*spatial, *reduced])
            placed |= _follow_by_rows(sch, block, row, target)
            _vectorise(sch, spatial[-1], target)
            init = sch.decompose_reduction(block, reduced[0])
            last = sch.get_loops(init)[-1]
            if int(sch.get(last).extent) > 1:
                sch.vectorize(last)
        elif not reduced:
            spread(sch, spatial, target)
    return sch.mod["main"]


def shorter_rows(sch: s_tir.Schedule, spatial: list[Any]) -> list[Any]:
    """With the last loop in parts, if a kernel's workspace has no room for a whole row."""
    *outer, last = spatial
    extent = int(sch.get(last).extent)
    return [*outer, *sch.split(last, [-(-extent // LONGEST_ROW), None])] if extent > 2 * LONGEST_ROW else spatial


def spread(sch: s_tir.Schedule, loops: list[Any], target: Target) -> None:
    """Parallel over the outer loops, vectors of the innermost. A row stays a loop: there may be gaps between rows."""
    rows = loops[:-2] if math.prod(int(sch.get(loop).extent) for loop in loops[:-2]) >= ENOUGH_ROWS else loops[:-1]
    _parallel(sch, rows, loops)
    _vectorise(sch, loops[-1], target)


def _follow_by_rows(sch: s_tir.Schedule, block: Any, row: Any, target: Target) -> set[str]:
    """Let the block's only reader follow row by row, so that one row is kept rather than the whole result."""
    readers = sch.get_consumers(block)
    if len(readers) != 1 or not _reads_in_step(sch, block, readers[0]):
        return set()
    sch.reverse_compute_at(readers[0], row)
    last = sch.get_loops(readers[0])[-1]
    if not sch.get(last).loop_var.same_as(sch.get(row).loop_var):  # with one element a row there is no loop of its own
        _vectorise(sch, last, target)
    return {sch.get(readers[0]).name_hint}


def _reads_in_step(sch: s_tir.Schedule, block: Any, reader: Any) -> bool:
    """Whether the reader takes element [i, j, ...] for its own [i, j, ...] and nothing else of the block's result."""
    result = sch.get(block).writes[0].source
    own = sch.get(reader).iter_vars
    regions = [access.region for access in sch.get(reader).reads if access.source.same_as(result)]
    return all(
        len(region) == len(own)
        and all(
            int(r.extent) == 1 and (r.min.same_as(each.var) or int(each.dom.extent) == 1)  # which is written as 0
            for r, each in zip(region, own, strict=True)
        )
        for region in regions
    )


def _parallel(sch: s_tir.Schedule, outer: list[Any], nest: list[Any]) -> Any:
    """Share `outer` among threads if the whole nest is worth waking them; gives its innermost loop."""
    work = math.prod(int(sch.get(loop).extent) for loop in nest)
    if not outer or work < WORTH_THREADS:
        return outer[-1] if outer else None
    fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    if int(sch.get(fused).extent) > 1:
        sch.parallel(fused)
    return fused


def _vectorise(sch: s_tir.Schedule, loop: Any, target: Target) -> None:
    extent = int(sch.get(loop).extent)
    block = divisor(extent, 4 * target.lanes, 2 * target.lanes, target.lanes)
    if block > 1:
        sch.vectorize(sch.split(loop, [None, block])[1] if extent > block else loop)
