"""Weights on their way from memory while the ones before them are still in use.

Convolutions go through their weights block by block and through one block many times: the first time at the speed of
memory, later at the speed of the cache. Processors fetch ahead only what follows the present address. So each pass
over a block asks for its share of the next block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

LINE = 16  # floats in a cache line
NEAR = 8192  # floats of weights that are in the cache anyhow
FOR_READING, INTO_FIRST_CACHE, DATA = 0, 3, 1  # arguments of LLVM's intrinsic


@dataclass(frozen=True)
class Walk:
    """How a kernel goes through its weights: TIR expressions of its loop variables."""

    weights: tirx.Buffer
    loop: tirx.For  # innermost loop, whose steps lie one behind another in memory
    block: Any  # number of the block of weights in use
    block_size: int  # floats
    passes: int  # over one block
    at_pass: Any
    at_step: Any  # of one pass
    step_size: int  # floats


def prefetch(func: tirx.PrimFunc, walk: Walk) -> tirx.PrimFunc:
    """The same function with requests for the next block of weights in `walk.loop`."""
    sizes = [int(size) for size in walk.weights.shape]
    lines = -(-walk.step_size // LINE)
    share = -(-lines // walk.passes)
    if walk.block_size * walk.passes == 0 or _product(sizes) <= NEAR:
        return func
    at_pass = walk.at_pass % (lines // share) if walk.passes > lines // share else walk.at_pass
    steps = walk.block_size // walk.step_size
    first = (walk.block + 1) * walk.block_size + (at_pass * steps + walk.at_step) * share * LINE
    innermost = [0] * (len(sizes) - 1)
    requests = [
        tirx.Evaluate(
            tirx.call_llvm_intrin(
                "void",
                "llvm.prefetch.p0",
                tirx.address_of(tirx.BufferLoad(walk.weights, [*innermost, first + line * LINE])),
                FOR_READING,
                INTO_FIRST_CACHE,
                DATA,
            )
        )
        for line in range(share)
    ]
    root = func.body.block
    body = _inside(root.body, walk.loop.loop_var, requests)
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        body,
        root.init,
        root.alloc_buffers,
        root.match_buffers,
        root.annotations,
    )
    realized = s_tir.SBlockRealize(func.body.iter_values, func.body.predicate, block)
    return tirx.PrimFunc(func.params, realized, func.ret_type, func.attrs)


def _inside(statement: tirx.Stmt, loop: tirx.Var, requests: list[tirx.Stmt]) -> tirx.Stmt:
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_inside(each, loop, requests) for each in statement.seq])
    if not isinstance(statement, tirx.For):
        return statement
    found = statement.loop_var.same_as(loop)
    body = tirx.SeqStmt([*requests, statement.body]) if found else _inside(statement.body, loop, requests)
    return tirx.For(
        statement.loop_var,
        statement.min,
        statement.extent,
        statement.kind,
        body,
        statement.thread_binding,
        statement.annotations,
    )


def _product(sizes: list[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
