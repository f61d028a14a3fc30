"""Sums of an image's rows, added up by the task that has just written them: see perse_compile/lowering/pooled.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from perse_compile.lowering.schedules.common import divisor
from perse_compile.lowering.schedules.statements import surround

SUMS = "sums"  # attribute of a kernel that adds up rows, in so many pieces: it writes them before its last parameter
AT_ONCE = 4  # vectors, so that additions need not wait for each other


@dataclass(frozen=True)
class Written:
    """What one turn of a kernel's task loop writes; it may reach beyond the image."""

    task: tirx.Var
    row: Any  # the first
    rows: int
    channel: Any
    channels: int


def add_up(func: tirx.PrimFunc, written: Written, lanes: int) -> tirx.PrimFunc:
    """Given a scheduled kernel with attribute SUMS, whose last parameter is an image (1, height, width, channels):

    the same with one more parameter before the image, (1, height, pieces, channels): the sums of each row's pieces.
    """
    if SUMS not in func.attrs:
        return func
    image, pieces = func.params[-1], int(func.attrs[SUMS])
    _, height, width, channels = (int(size) for size in image.shape)
    sums = tirx.decl_buffer((1, height, pieces, channels), "float32", SUMS)
    together = math.gcd(channels, written.channels)
    lanes = divisor(together, lanes, lanes // 2, lanes // 4)
    vectors = divisor(together // lanes, AT_ONCE, AT_ONCE // 2)
    row, piece, block, x = (tirx.Var(name, "int32") for name in ("row", "piece", "block", "x"))
    h, first = written.row + row, written.channel + block * lanes * vectors

    def each(statement: Any) -> tirx.Stmt:
        made = [statement(first + vector * lanes) for vector in range(vectors)]
        return made[0] if vectors == 1 else tirx.SeqStmt(made)

    def at(c: Any) -> Any:
        return tirx.Ramp(c, 1, lanes) if lanes > 1 else c

    def nothing(c: Any) -> tirx.Stmt:
        zero = tirx.const(0.0, "float32")
        return tirx.BufferStore(sums, tirx.Broadcast(zero, lanes) if lanes > 1 else zero, [0, h, piece, at(c)])

    def added(c: Any) -> tirx.Stmt:
        so_far = tirx.BufferLoad(sums, [0, h, piece, at(c)])
        value = tirx.BufferLoad(image, [0, h, piece * (width // pieces) + x, at(c)])
        return tirx.BufferStore(sums, so_far + value, [0, h, piece, at(c)])

    body = tirx.SeqStmt([each(nothing), _loop(x, width // pieces, each(added))])
    if height % written.rows or channels % written.channels:
        body = tirx.IfThenElse(tirx.all(h < height, first < channels), body, None)
    nest = _loop(block, written.channels // (lanes * vectors), body)
    nest = _loop(row, written.rows, _loop(piece, pieces, nest))
    func = surround(func, written.task, last=[nest])
    return tirx.PrimFunc([*func.params[:-1], sums, image], func.body, func.ret_type, func.attrs)


def _loop(variable: tirx.Var, extent: int, body: tirx.Stmt) -> tirx.Stmt:
    return tirx.For(variable, 0, extent, tirx.ForKind.SERIAL, body)
