"""Statements put into the loops of a scheduled kernel."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx


def surround(
    func: tirx.PrimFunc, loop: tirx.Var, first: Sequence[tirx.Stmt] = (), last: Sequence[tirx.Stmt] = ()
) -> tirx.PrimFunc:
    """The same function where the loop of this variable begins and ends every turn with these statements."""
    if not first and not last:
        return func
    root = func.body.block
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        _surrounded(root.body, loop, first, last),
        root.init,
        root.alloc_buffers,
        root.match_buffers,
        root.annotations,
    )
    body = s_tir.SBlockRealize(func.body.iter_values, func.body.predicate, block)
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def _surrounded(
    statement: tirx.Stmt, loop: tirx.Var, first: Sequence[tirx.Stmt], last: Sequence[tirx.Stmt]
) -> tirx.Stmt:
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_surrounded(each, loop, first, last) for each in statement.seq])
    if not isinstance(statement, tirx.For):
        return statement
    found = statement.loop_var.same_as(loop)
    inside = [*first, statement.body, *last] if found else [_surrounded(statement.body, loop, first, last)]
    return tirx.For(
        statement.loop_var,
        statement.min,
        statement.extent,
        statement.kind,
        inside[0] if len(inside) == 1 else tirx.SeqStmt(inside),
        statement.thread_binding,
        statement.annotations,
    )
