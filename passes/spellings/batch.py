"""A batch that forward moves, or mixes with other dimensions, as attention does. In the graph it stays dimension 0.

`view(B * heads, ...)`, windows, `flatten(0, 1)`: parts of each image become images of their own. What torch sees as
(B * parts, *rest) is (B, parts, *rest) in the graph, and operations on it get their arguments from `of_parts`.
`permute(2, 0, 3, 1, 4)`, `stack(...)`: a tensor whose batch is not first is `Moved` until it is again, as after
`q, k, v = qkv.unbind(0)`; few rules take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perse_compile.ops import ACTIVATIONS, ARITHMETIC
from perse_compile.passes.spellings.rules import Node, Rule, Unsupported

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter

BY_ITSELF = (*ACTIVATIONS, *ARITHMETIC, "linear", "layer_norm", "matmul")  # whatever is before the last two dimensions
NEVER_FIRST = "moves the batch; keep it as dimension 0"
MOVABLE: set[Rule] = set()


@dataclass(frozen=True)
class Moved:
    """Dimension i of the tensor is order[i] of the node's; order[0] is not 0."""

    node: Node
    order: tuple[int, ...]


def takes_moved(rule: Rule) -> Rule:
    MOVABLE.add(rule)
    return rule


def in_order(e: Emitter, x: Node, order: Sequence[int]) -> Node | Moved:
    """The node's dimensions so; the batch may be anywhere."""
    if order[0] != 0:
        return Moved(x, tuple(order))
    return x if list(order) == sorted(order) else e("permute", x, tuple(order))


def without(e: Emitter, x: Moved, node: Node, gone: Sequence[int]) -> Node | Moved:
    """What x is after its node has become `node`, which has no longer these dimensions of it."""
    kept = [d for d in x.order if d not in gone]
    return in_order(e, node, [sorted(kept).index(d) for d in kept])


def of_parts(op: str, args: tuple[Any, ...], parts: int) -> tuple[Any, ...]:
    """Arguments for (N, parts, *rest) that do what `args` do to (N * parts, *rest)."""
    x, *others = args
    if op in BY_ITSELF:
        return args
    if op == "reshape":
        return x, (parts, *others[0])
    if op == "permute":
        return x, (0, 1, *(d + 1 for d in others[0][1:]))
    if op in ("mean", "amax"):
        return x, tuple(d + 1 for d in others[0]), *others[1:]
    if op in ("softmax", "concat", "slice_dim"):
        return x, others[0] + 1, *others[1:]
    raise Unsupported(f"{op} of parts of an image, which are a batch of their own; do it before they are")
