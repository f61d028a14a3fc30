"""The two transforms of Winograd's convolution: a vector of channels of one tile at a time, all in registers."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from perse_compile.lowering.schedules.common import divisor, open_schedule
from perse_compile.lowering.schedules.rows import Written, add_up
from perse_compile.targets import Target


def transform(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Given blocks "rows" (tiles, channels, n, n) and the last one (n, n, tiles, channels)."""
    sch, (rows, out) = open_schedule(func, keep=("rows",))
    p, q, t, c = sch.get_loops(out)
    co, ci = _vectors(sch, c, target)
    sch.reorder(t, co, p, q, ci)
    sch.parallel(t)
    sch.compute_at(rows, p, preserve_unit_loops=True)
    *_, channels, _, columns = sch.get_loops(rows)
    sch.reorder(columns, channels)
    sch.unroll(columns)
    sch.vectorize(channels)
    sch.unroll(p)
    sch.unroll(q)
    sch.vectorize(ci)
    return sch.mod["main"]


def result(func: tirx.PrimFunc, m: int, target: Target) -> tirx.PrimFunc:
    """Given blocks "rows" (m, n, tiles, channels) and the last one (1, height, width, channels)."""
    sch, (rows, out) = open_schedule(func, keep=("rows",))
    _, h, w, c = sch.get_loops(out)
    th, i = sch.split(h, [None, m])
    tw, j = sch.split(w, [None, m])
    co, ci = _vectors(sch, c, target)
    sch.reorder(th, tw, co, i, j, ci)
    sch.parallel(th)
    sch.compute_at(rows, i, preserve_unit_loops=True)
    *_, columns, _, channels = sch.get_loops(rows)
    sch.unroll(columns)
    sch.vectorize(channels)
    sch.unroll(i)
    sch.unroll(j)
    sch.vectorize(ci)
    func, task = sch.mod["main"], sch.get(th).loop_var
    return add_up(func, Written(task, task * m, m, 0, int(func.params[-1].shape[-1])), target.lanes)


def _vectors(sch: s_tir.Schedule, channels: Any, target: Target) -> tuple[Any, Any]:
    size = int(sch.get(channels).extent)
    outer, inner = sch.split(channels, [None, divisor(size, target.lanes)])
    return outer, inner
