"""Steps that every family's schedule begins with."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx


def open_schedule(func: tirx.PrimFunc, keep: tuple[str, ...] = ("acc",)) -> tuple[s_tir.Schedule, list[Any]]:
    """Inline every block but those in `keep` and the last; gives the schedule and the blocks that are left."""
    sch = s_tir.Schedule(func)
    blocks = child_blocks(sch)
    kept = []
    for block in blocks[:-1]:
        if sch.get(block).name_hint in keep:
            kept.append(block)
        else:
            sch.compute_inline(block)
    return sch, [*kept, blocks[-1]]


def child_blocks(sch: s_tir.Schedule) -> list[Any]:
    """Blocks in program order."""
    root = sch.get_sblock("root")
    return list(sch.get_child_blocks(root))


def vectorise(sch: s_tir.Schedule, loop: Any, lanes: int) -> None:
    """The whole loop as vectors: as one if LLVM can split it evenly, which it does not where the number is odd."""
    vectors = int(sch.get(loop).extent) // lanes
    if vectors > 1 and vectors & (vectors - 1):
        outer, loop = sch.split(loop, [None, lanes])
        sch.unroll(outer)
    sch.vectorize(loop)


def divisor(size: int, *choices: int) -> int:
    """The first of `choices` that divides `size`, else 1."""
    return next((choice for choice in choices if size % choice == 0), 1)
