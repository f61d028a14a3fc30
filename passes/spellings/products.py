"""Products of two tensors that depend on the image, and attention."""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from perse_compile.passes.spellings.arithmetic import add, stretched
from perse_compile.passes.spellings.layers import linear
from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, is_node
from perse_compile.passes.spellings.shapes import permute, reshape_to, transpose

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


def matmul(e: Emitter, input: Any, other: Any) -> Node:
    if is_node(input) and isinstance(other, Tensor) and other.dim() == 2:
        return linear(e, input, e.name_tensor(other.detach().t().contiguous(), "weight"))
    if is_node(other) and isinstance(input, Tensor) and input.dim() == 2:
        product = linear(e, transpose(e, other, -2, -1), e.name_tensor(input.detach(), "weight"))
        return transpose(e, product, -2, -1)  # type: ignore[no-any-return]
    if not (is_node(input) and is_node(other)):
        raise Unsupported("a product with a constant that is no matrix")
    left, right = e.shape(input), e.shape(other)
    if len(left) < 3 or len(left) != len(right) or left[0] != right[0]:
        raise Unsupported(f"a product of {left[1:]} and {right[1:]}, which are not as many matrices")
    if set(right[1:-2]) == {1} and left[-2:] != (1, 1):  # each of the left by the one on the right
        rows = reshape_to(e, input, (left[0], math.prod(left[1:-1]), left[-1]))
        product = e("matmul", rows, reshape_to(e, other, (right[0], *right[-2:])), suffix="rows")
        return reshape_to(e, product, (*left[:-1], right[-1]))
    many = tuple(max(a, b) for a, b in zip(left[:-2], right[:-2], strict=True))
    return e("matmul", stretched(e, input, (*many, *left[-2:])), stretched(e, other, (*many, *right[-2:])))


def bmm(e: Emitter, input: Any, mat2: Any) -> Node:
    return matmul(e, input, mat2)


def einsum(e: Emitter, equation: Any, *operands: Any) -> Node:
    """Of two tensors: a product of matrices after both were put in order."""
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    said = re.fullmatch(r"([A-Za-z]+),([A-Za-z]+)->([A-Za-z]+)", str(equation).replace(" ", ""))
    if said is None or len(operands) != 2 or any(len(set(term)) < len(term) for term in said.groups()):
        raise Unsupported(f"{equation!r}; only of two tensors, written ab,bc->ac, without ... or a letter twice in one")
    (one, other), (left, right, result) = operands, said.groups()
    if not is_node(one):
        one, other, left, right = other, one, right, left
    shared = [c for c in result if c in left and c in right]
    inner = [c for c in left if c in right and c not in result]
    rows, columns = [c for c in result if c not in right], [c for c in result if c not in left]
    sizes = dict(zip(left, e.shape(one), strict=True))
    other_shape = e.shape(other) if is_node(other) else tuple(other.shape)
    sizes |= dict(zip(right, other_shape, strict=True))
    if result[0] != left[0] or (is_node(other) and right[0] != left[0]) or (not is_node(other) and shared):
        raise Unsupported(f"{equation!r}: the batch must be first, in all that depend on the image")
    if set(left) - {*shared, *inner, *rows} or set(right) - {*shared, *inner, *columns}:
        raise Unsupported(f"{equation!r}: a letter of one tensor only that is summed; sum it before")
    count = {name: math.prod(sizes[c] for c in of) for name, of in (("i", inner), ("r", rows), ("c", columns))}
    if not is_node(other):
        weight = other.detach().float().permute([right.index(c) for c in (*columns, *inner)])
        ordered = permute(e, one, [left.index(c) for c in (*rows, *inner)])
        product = linear(
            e,
            reshape_to(e, ordered, (*(sizes[c] for c in rows), count["i"])),
            e.name_tensor(weight.reshape(count["c"], count["i"]).contiguous(), "weight"),
        )
    else:
        kept = [sizes[c] for c in shared]
        first = permute(e, one, [left.index(c) for c in (*shared, *rows, *inner)])
        second = permute(e, other, [right.index(c) for c in (*shared, *inner, *columns)])
        product = e(
            "matmul",
            reshape_to(e, first, (*kept, count["r"], count["i"])),
            reshape_to(e, second, (*kept, count["i"], count["c"])),
            suffix="product",
        )
    made = (*shared, *rows, *columns)
    product = reshape_to(e, product, tuple(sizes[c] for c in made))
    return permute(e, product, [made.index(c) for c in result])  # type: ignore[no-any-return]


def attention(
    e: Emitter, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Node:  # fmt: skip
    """softmax(query key^T scale + mask) value."""
    if is_causal or dropout_p or enable_gqa:
        raise Unsupported("attention that is causal, with dropout or with shared keys")
    factor = 1 / math.sqrt(e.shape(query)[-1]) if scale is None else float(scale)
    likeness = matmul(e, e("mul", query, factor, suffix="scaled"), transpose(e, key, -2, -1))
    if isinstance(attn_mask, Tensor) and attn_mask.dtype == torch.bool:
        if not bool(attn_mask.any(-1).all()):
            raise Unsupported("attention with a mask that leaves a row nothing")
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, -1e30)
    likeness = likeness if attn_mask is None else add(e, likeness, attn_mask)
    return matmul(e, e("softmax", likeness, len(e.shape(likeness)) - 1, suffix="weights"), value)


METHODS: dict[str, Rule] = {"matmul": matmul, "bmm": bmm}

FUNCTIONS: dict[Any, Rule] = {
    operator.matmul: matmul, torch.matmul: matmul, torch.bmm: bmm, torch.einsum: einsum,
    F.scaled_dot_product_attention: attention,
}  # fmt: skip
