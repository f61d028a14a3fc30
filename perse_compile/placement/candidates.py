"""Which cut points may have an exit."""

from __future__ import annotations

from itertools import pairwise

from torch import fx

from perse_compile.errors import PassError
from perse_compile.passes.head_types import HeadWish, make_exit
from perse_compile.passes.place_exits import ELEMENTWISE, LATEST, named
from perse_compile.program import CutPoint, Program
from perse_compile.rewriting import is_op

MOST = 48  # heads that are trained for a search
SAME_VALUES = (*ELEMENTWISE, "channel_shuffle", "permute")  # what reads a tap right away in the tap's own kernel


def candidates(program: Program, names: tuple[str, ...] | None = None) -> list[CutPoint]:
    """All cut points in order, or those named, without three kinds that cannot be better than another one.

    - one that only element-wise operations or shuffles read: what they give is a cut point of the same cost, and a
      tap before them would split a kernel in two
    - one beyond 95 % of the MACs: it saves nothing
    - where more than 48 are left: of the two that are nearest in cost, the later, until they are 48
    """
    if names is not None:
        wanted = {named(program, name) for name in names}
        return [cut for cut in program.cuts if cut.node in wanted]
    full = max((cut.macs for cut in program.cuts), default=0)
    found = [cut for cut in program.cuts if cut.macs <= LATEST * full and not _goes_on(program.node(cut.node))]
    if not found:
        raise PassError(
            f"{program.name} has no place for an early exit;"
            f" `perse-compile insert-exits {program.provenance.get('model', 'MODEL')} --list` lists its cut points"
        )
    return thinned(found)


def with_linear_heads(cuts: list[CutPoint], classes: int, head: HeadWish) -> list[CutPoint]:
    """Those where a linear head fits the budget: the search trains no projections. Raises PassError."""
    if head.kind == "bottleneck":
        raise PassError(
            "--place searches with linear heads; place exits with --head auto, pooled or multiscale, then give"
            " their nodes to --exits with --head bottleneck, and run train-exits"
        )
    made = [make_exit(cut.node, cut, classes, head) for cut in cuts]
    found = [cut for cut, exit in zip(cuts, made, strict=True) if exit is not None and not exit.projected]
    if not found and head.budget is None:
        raise PassError(f"--head {head.kind}: all {len(cuts)} candidates are too small for it; use --head auto")
    if not found:
        raise PassError(f"--head-budget: no linear head of {head.budget} bytes fits at any of {len(cuts)} candidates")
    return found


def thinned(cuts: list[CutPoint], most: int = MOST) -> list[CutPoint]:
    """At most so many, spread over the cost."""
    cuts = list(cuts)
    while len(cuts) > most:
        gaps = [later.macs - earlier.macs for earlier, later in pairwise(cuts)]
        del cuts[gaps.index(min(gaps)) + 1]
    return cuts


def _goes_on(node: fx.Node) -> bool:
    """Everything that reads it computes the same image on, element by element."""
    return all(is_op(user, *SAME_VALUES) for user in node.users)
