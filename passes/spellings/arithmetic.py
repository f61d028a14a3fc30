"""Arithmetic, with constants and tensors that broadcast."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, elementwise, in_place, is_node, rank
from perse_compile.passes.spellings.shapes import reshape_to
from perse_compile.shapes import BATCH

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


EXTREMES = ("maximum", "minimum")


def arithmetic(op: str) -> Rule:
    def rule(e: Emitter, input: Any, other: Any, alpha: float = 1.0) -> Any:
        if op == "add" and isinstance(input, tuple) and isinstance(other, tuple):
            return (*input, *other)
        if alpha != 1.0:
            other = e("mul", other, float(alpha), suffix="alpha") if is_node(other) else other * alpha
        if is_node(input) and is_node(other):
            return e(op, input, other)
        if is_node(other):
            return with_constant_first(e, op, input, other)
        return with_constant(e, op, input, other)

    return rule


def with_constant(e: Emitter, op: str, x: Node, constant: Any) -> Node:
    """x op constant; a constant per channel becomes an affine, which may fold away later."""
    constant = constant.detach().float() if isinstance(constant, Tensor) else constant
    if not isinstance(constant, Tensor) or constant.numel() == 1:
        value = float(constant)
        if op in EXTREMES:
            return e("clamp", x, *((value, math.inf) if op == "maximum" else (-math.inf, value)))
        return e(op, x, value)
    per_channel = channel_constant(e, x, constant)
    if per_channel is None or op in EXTREMES:
        shape, own = constant.shape[1:] if constant.dim() == rank(e, x) else constant.shape, e.shape(x)[1:]
        if len(shape) > len(own) or (constant.dim() == rank(e, x) and constant.shape[0] != 1):
            raise Unsupported(f"a constant of shape {tuple(constant.shape)} on {own}")
        return e(op, x, e.name_tensor(constant, "constant"))
    one, zero = torch.ones_like(per_channel), torch.zeros_like(per_channel)
    scale = {"mul": per_channel, "div": 1.0 / per_channel}.get(op, one)
    shift = {"add": per_channel, "sub": -per_channel}.get(op, zero)
    return e("affine", x, e.name_tensor(scale, "scale"), e.name_tensor(shift, "shift"))


def with_constant_first(e: Emitter, op: str, constant: Any, x: Node) -> Node:
    if op == "sub":
        return with_constant(e, "add", e("mul", x, -1.0, suffix="negated"), constant)
    if op == "div":
        return with_constant(e, "mul", e("reciprocal", x, suffix="reciprocal"), constant)
    return with_constant(e, op, x, constant)


def channel_constant(e: Emitter, x: Node, constant: Tensor) -> Tensor | None:
    """The constant as (C,), if it varies along dimension 1 of x only."""
    shape = e.shape(x)
    aligned = (1,) * (len(shape) - constant.dim()) + tuple(constant.shape)
    fits = (
        len(aligned) == len(shape) > 1
        and aligned[1] == shape[1]
        and all(s == 1 for i, s in enumerate(aligned) if i != 1)
    )
    return constant.reshape(-1) if fits else None


def negative(e: Emitter, input: Node) -> Node:
    return e("mul", input, -1.0)


def power(e: Emitter, input: Any, exponent: Any) -> Node:
    """Whole powers by products, others as exp(p log x), which like torch's are for what is not negative."""
    if not is_node(input) or is_node(exponent) or (isinstance(exponent, Tensor) and exponent.numel() != 1):
        raise Unsupported("an exponent computed from the image, or one for each channel")
    p = float(exponent.detach() if isinstance(exponent, Tensor) else exponent)
    if p < 0:
        return e("reciprocal", power(e, input, -p))
    if p == 0.5:
        return e("sqrt", input)
    if p.is_integer():
        return whole_power(e, input, int(p))
    return e("exp", e("mul", e("log", input, suffix="log"), p, suffix="scaled"))


def whole_power(e: Emitter, input: Node, p: int) -> Node:
    """By squares: x^13 = x^8 x^4 x."""
    if p == 0:
        return e("clamp", input, 1.0, 1.0)
    result, square = None, input
    for bit in range(p.bit_length()):
        square = e("mul", square, square, suffix="square") if bit else input
        if p >> bit & 1:
            result = square if result is None else e("mul", result, square, suffix="product")
    assert result is not None
    return result


def square(e: Emitter, input: Node) -> Node:
    return e("mul", input, input)


def root_of_reciprocal(e: Emitter, input: Node) -> Node:
    return e("reciprocal", e("sqrt", input, suffix="root"))


def subtracted_from(e: Emitter, input: Any, other: Any, alpha: float = 1.0) -> Node:
    result: Node = sub(e, other, input, alpha)
    return result


def expand(e: Emitter, input: Node, *sizes: Any) -> Node:
    """Multiplying and adding broadcast by themselves."""
    broadcasting = (operator.mul, operator.add, operator.sub, torch.mul, torch.add, "mul", "add", "sub", "mul_", "add_")
    if all(user.target in broadcasting for user in e.users()):
        return input
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    own = e.shape(input)
    if len(wanted) != len(own) or wanted[0] not in (-1, own[0]):
        raise Unsupported("expanded by new dimensions, for something else than arithmetic")
    return stretched(e, input, tuple(n if s == -1 else s for n, s in zip(own, wanted, strict=True)))


def expand_as(e: Emitter, input: Any, other: Node) -> Any:
    if isinstance(input, Tensor):  # which broadcasts along the batch
        return input.detach().expand(1, *e.shape(other)[1:])
    return expand(e, input, e.shape(other))


def stretched(e: Emitter, x: Node, shape: tuple[int, ...]) -> Node:
    """To this shape, with the batch: dimensions of one become as long as wanted."""
    for dim, (own, wanted) in enumerate(zip(e.shape(x), shape, strict=True)):
        if own == wanted:
            continue
        if own != 1:
            raise Unsupported(f"expands {own} to {wanted}")
        now = e.shape(x)
        rows = reshape_to(e, x, (BATCH, math.prod(now[:dim]) // BATCH, 1, math.prod(now[dim:])))
        x = reshape_to(e, e("upsample", rows, (wanted, 1), suffix="stretched"), (*now[:dim], wanted, *now[dim + 1 :]))
    return x


def added(op: str) -> Rule:
    """input + value * (tensor1 op tensor2), of which one at least depends on the image."""
    of_two = arithmetic(op)

    def rule(e: Emitter, input: Any, tensor1: Any, tensor2: Any, value: float = 1.0) -> Any:
        if is_node(tensor1) or is_node(tensor2):
            return add(e, input, of_two(e, tensor1, tensor2), value)
        return add(e, input, tensor1 * tensor2 if op == "mul" else tensor1 / tensor2, value)

    return rule


add, sub, mul, div = (arithmetic(op) for op in ("add", "sub", "mul", "div"))
maximum, minimum = (arithmetic(op) for op in EXTREMES)
exp, sqrt = (elementwise(op) for op in ("exp", "sqrt"))
absolute, reciprocal = (elementwise(op) for op in ("absolute", "reciprocal"))

METHODS: dict[str, Rule] = {
    "add": add, "sub": sub, "mul": mul, "div": div, "neg": negative, "pow": power, "square": square,
    "true_divide": div, "maximum": maximum, "minimum": minimum, "exp": exp, "sqrt": sqrt, "abs": absolute,
    "rsqrt": root_of_reciprocal, "reciprocal": reciprocal, "rsub": subtracted_from,
    "expand": expand, "expand_as": expand_as, "addcmul": added("mul"), "addcdiv": added("div"),
}  # fmt: skip
METHODS |= {
    f"{name}_": in_place(METHODS[name])
    for name in ("add", "sub", "mul", "div", "neg", "pow", "square", "exp", "sqrt", "abs", "rsqrt", "reciprocal")
}

FUNCTIONS: dict[Any, Rule] = {
    operator.add: add, torch.add: add, operator.sub: sub, torch.sub: sub, operator.mul: mul, torch.mul: mul,
    operator.truediv: div, torch.div: div, operator.neg: negative, torch.neg: negative, operator.pow: power,
    torch.pow: power, torch.square: square, torch.true_divide: div, torch.divide: div, torch.multiply: mul,
    torch.subtract: sub, torch.rsub: subtracted_from, torch.maximum: maximum, torch.minimum: minimum, torch.exp: exp,
    torch.sqrt: sqrt, torch.rsqrt: root_of_reciprocal, torch.abs: absolute, operator.abs: absolute,
    abs: absolute, torch.reciprocal: reciprocal, torch.addcmul: added("mul"), torch.addcdiv: added("div"),
    operator.iadd: in_place(add), operator.isub: in_place(sub), operator.imul: in_place(mul),
    operator.itruediv: in_place(div),
}  # fmt: skip
