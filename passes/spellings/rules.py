"""What rules are made of: torch's arguments, the forms that one rule takes, and rules that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.fx.node import map_aggregate

from perse_compile.shapes import BATCH

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter

Node = fx.Node
Rule = Callable[..., Any]


class Unsupported(Exception):
    """This form of an operation cannot be compiled."""


def pair(value: Any) -> tuple[int, int]:
    value = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(value) == 1:
        value = (value[0], value[0])
    if len(value) != 2:
        raise Unsupported(f"{value} is not two numbers: only 2D images can be compiled")
    return int(value[0]), int(value[1])


def is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def rank(e: Emitter, x: Any) -> int:
    return len(e.shape(x))


def dimension(e: Emitter, x: Node, dim: int) -> int:
    """Non-negative, and not the batch."""
    dim = dim + rank(e, x) if dim < 0 else dim
    if not 0 < dim < rank(e, x):
        raise Unsupported("works across the batch; keep the batch as dimension 0")
    return dim


def without_its_batch(sizes: Any) -> Any:
    """Sizes of a constant that broadcasts along the batch."""

    def one(n: Any) -> Any:
        if isinstance(n, int) and n > BATCH and n % BATCH == 0:
            raise Unsupported("a constant of a size that has the batch in it")
        return 1 if n == BATCH else n

    return map_aggregate(sizes, one)


def is_call(x: Node, name: str) -> bool:
    return x.op == "call_function" and x.target.__name__ == name  # type: ignore[union-attr]


def implied(e: Emitter, x: Node, dim: int | None) -> int:
    """A softmax's dimension; torch chooses one where none is said."""
    return dimension(e, x, (0 if rank(e, x) == 3 else 1) if dim is None else dim)


def in_place(rule: Rule) -> Rule:
    """The rule of a method like relu_: what was x is the result from now on."""

    def rule_in_place(e: Emitter, x: Node, *args: Any, **kwargs: Any) -> Any:
        result = rule(e, x, *args, **kwargs)
        if is_node(x):
            e.overwrite(x, result)
        return result

    return rule_in_place


def overwritten(e: Emitter, old: Node, new: Node, inplace: bool) -> Node:
    if inplace:
        e.overwrite(old, new)
    return new


def elementwise(op: str) -> Rule:
    def rule(e: Emitter, input: Node, inplace: bool = False) -> Node:
        return overwritten(e, input, e(op, input), inplace)

    return rule


def of_module(rule: Rule, *fields: str) -> Rule:
    """Fields of the module are further arguments of the rule."""

    def module_rule(e: Emitter, m: nn.Module, input: Node) -> Node:
        result: Node = rule(e, input, *(getattr(m, field) for field in fields))
        return overwritten(e, input, result, bool(getattr(m, "inplace", False)))

    return module_rule


def unchanged(e: Emitter, input: Node, *args: Any, **kwargs: Any) -> Node:
    return input


def unchanged_module(e: Emitter, m: nn.Module, input: Node) -> Node:
    return input


def nothing(e: Emitter, *args: Any, **kwargs: Any) -> None:
    return None
