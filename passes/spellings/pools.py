"""Pools and reductions."""

from __future__ import annotations

import inspect
import math
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.passes.spellings.arithmetic import maximum, minimum
from perse_compile.passes.spellings.batch import NEVER_FIRST, Moved, takes_moved, without
from perse_compile.passes.spellings.rules import (
    Node,
    Rule,
    Unsupported,
    dimension,
    implied,
    is_call,
    is_node,
    of_module,
    pair,
    rank,
)
from perse_compile.passes.spellings.shapes import reshape_to
from perse_compile.shapes import BATCH

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


def max_pool2d(
    e: Emitter, input: Node, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Node:  # fmt: skip
    if return_indices:
        raise Unsupported("indices of a pool")
    return e(
        "max_pool2d",
        input,
        pair(kernel_size),
        pair(stride or kernel_size),
        pair(padding),
        pair(dilation),
        bool(ceil_mode),
    )


def avg_pool2d(
    e: Emitter, input: Node, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Node:  # fmt: skip
    if divisor_override is not None:
        raise Unsupported("divisor_override of a pool")
    return e(
        "avg_pool2d",
        input,
        pair(kernel_size),
        pair(stride or kernel_size),
        pair(padding),
        bool(ceil_mode),
        bool(count_include_pad),
    )


def of_rows(rule: Rule) -> Rule:
    """A pool of (N, C, L), as of an image of one row; sizes are single numbers, or one in a tuple."""

    @wraps(rule)
    def of_a_row(e: Emitter, input: Node, *args: Any, **kwargs: Any) -> Node:
        sizes = inspect.signature(rule).bind(e, input, *args, **kwargs).arguments
        for name, along in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1), ("output_size", 1)):
            if (size := sizes.get(name)) is not None:
                sizes[name] = (along, size[0] if isinstance(size, (tuple, list)) else size)
        count, channels, length = e.shape(input)
        row = e("reshape", input, (channels, 1, length), suffix="row")
        made = rule(**{**sizes, "input": row})
        return reshape_to(e, made, (count, channels, e.shape(made)[3]))

    return of_a_row


def adaptive(op: str) -> Rule:
    def rule(e: Emitter, input: Node, output_size: Any, return_indices: bool = False) -> Node:
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        size = tuple(
            int(own if wanted is None else wanted) for wanted, own in zip(sizes, e.shape(input)[-2:], strict=True)
        )
        return input if size == e.shape(input)[-2:] else e(op, input, size)

    return rule


def over_moved(rule: Rule) -> Rule:
    """A reduction that takes a tensor whose batch is elsewhere, too, as torch.stack(...).mean(0)."""

    @wraps(rule)
    def aware(e: Emitter, input: Any, dim: Any = None, keepdim: bool = False, **more: Any) -> Any:
        if not isinstance(input, Moved):
            return rule(e, input, dim, keepdim, **more)
        if dim is None or keepdim:
            raise Unsupported(NEVER_FIRST)
        gone = [input.order[d] for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
        return without(e, input, rule(e, input.node, gone, False, **more), gone)

    return takes_moved(aware)


@over_moved
def mean(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
    return e("mean", input, dimensions(e, input, dim), bool(keepdim))


@over_moved
def total(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
    dims = dimensions(e, input, dim)
    count = math.prod(e.shape(input)[d] for d in dims)
    return e("mul", e("mean", input, dims, bool(keepdim), suffix="mean"), float(count))


@over_moved
def greatest(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False) -> Node:
    dims = dimensions(e, input, dim)
    if dims != (2, 3) or rank(e, input) != 4 or e.shape(input)[0] != BATCH:
        return e("amax", input, dims, bool(keepdim))
    return reshape_to(
        e, e("adaptive_max_pool2d", input, (1, 1), suffix="pool"), e.shape(input)[:2] + (1, 1) * bool(keepdim)
    )


@over_moved
def least(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False) -> Node:
    return e("mul", greatest(e, e("mul", input, -1.0, suffix="negated"), dim, keepdim), -1.0)


class Positions:
    """Of maxima: nothing that is compiled can read them."""


class Extremes(NamedTuple):
    """What torch.max and torch.min give of a dimension."""

    values: Node
    indices: Positions


def extremes(of_two: Rule, of_dimension: Rule) -> Rule:
    """torch.max and torch.min, of two tensors or of one dimension."""

    def rule(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False, other: Any = None) -> Node | Extremes:
        other = dim if is_node(dim) or isinstance(dim, (Tensor, Moved)) else other
        if other is not None:
            if isinstance(input, Moved) or isinstance(other, Moved):
                raise Unsupported(NEVER_FIRST)
            result: Node = of_two(e, input, other)
            return result
        return Extremes(of_dimension(e, input, dim, keepdim), Positions())

    return takes_moved(rule)


def var(
    e: Emitter, input: Node, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> Node:
    dims = dimensions(e, input, dim)
    off = e("sub", input, e("mean", input, dims, True, suffix="mean"), suffix="off")
    squares = e("mean", e("mul", off, off, suffix="squares"), dims, bool(keepdim), suffix="variance")
    count = math.prod(e.shape(input)[d] for d in dims)
    less = float(unbiased if correction is None else correction)
    if count <= less:
        raise Unsupported(f"the variance of {count} numbers with a correction of {less:g}")
    return e("mul", squares, count / (count - less)) if less else squares


def std(
    e: Emitter, input: Node, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> Node:
    return e("sqrt", var(e, input, dim, unbiased, keepdim, correction))


def norm(
    e: Emitter, input: Node, p: Any = 2, dim: Any = None, keepdim: bool = False, out: None = None, dtype: Any = None
) -> Node:
    if p not in (2, "fro"):
        raise Unsupported(f"the norm {p}; only 2")
    return e("sqrt", total(e, e("mul", input, input, suffix="squares"), dim, keepdim))


def normalize(e: Emitter, input: Node, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Node:
    return e("div", input, e("clamp", norm(e, input, p, dim, True), float(eps), math.inf, suffix="length"))


def logsumexp(e: Emitter, input: Node, dim: Any, keepdim: bool = False) -> Node:
    dims = dimensions(e, input, dim)
    most = e("amax", input, dims, True, suffix="most")
    powers = e("exp", e("sub", input, most, suffix="off"), suffix="powers")
    kept = e("add", e("log", total(e, powers, dims, True), suffix="log"), most)
    return kept if keepdim else reshape_to(e, kept, tuple(s for d, s in enumerate(e.shape(kept)) if d not in dims))


def log_softmax(e: Emitter, input: Node, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Node:
    return e("sub", input, logsumexp(e, input, implied(e, input, dim), True))


def log(e: Emitter, input: Node) -> Node:
    """Of a softmax from what that is taken of: its shares may be too small to have a logarithm."""
    if is_call(input, "softmax"):
        source, dim = input.args
        dim -= "parts" in input.meta  # type: ignore[operator]  # which come before it there
        return log_softmax(e, source, dim)  # type: ignore[arg-type]
    return e("log", input)


def vector_norm(
    e: Emitter, x: Node, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, out: None = None
) -> Node:
    return norm(e, x, ord, dim, keepdim)


def dimensions(e: Emitter, x: Node, dim: Any) -> tuple[int, ...]:
    if dim is None:
        raise Unsupported("reduces the batch too; give the dimensions")
    return tuple(sorted(dimension(e, x, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))))


adaptive_avg_pool2d, adaptive_max_pool2d = adaptive("adaptive_avg_pool2d"), adaptive("adaptive_max_pool2d")
max_pool1d, avg_pool1d, adaptive_avg_pool1d, adaptive_max_pool1d = (
    of_rows(rule) for rule in (max_pool2d, avg_pool2d, adaptive_avg_pool2d, adaptive_max_pool2d)
)

MODULES: dict[type[nn.Module], Rule] = {
    nn.MaxPool2d: of_module(
        max_pool2d, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: of_module(
        avg_pool2d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: of_module(adaptive_avg_pool2d, "output_size"),
    nn.AdaptiveMaxPool2d: of_module(adaptive_max_pool2d, "output_size", "return_indices"),
    nn.LogSoftmax: of_module(log_softmax, "dim"),
    nn.MaxPool1d: of_module(
        max_pool1d, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool1d: of_module(avg_pool1d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    nn.AdaptiveAvgPool1d: of_module(adaptive_avg_pool1d, "output_size"),
    nn.AdaptiveMaxPool1d: of_module(adaptive_max_pool1d, "output_size", "return_indices"),
}  # fmt: skip

torch_max, torch_min = extremes(maximum, greatest), extremes(minimum, least)

METHODS: dict[str, Rule] = {
    "mean": mean, "sum": total, "amax": greatest, "amin": least, "max": torch_max, "min": torch_min, "var": var,
    "std": std, "norm": norm, "logsumexp": logsumexp, "log_softmax": log_softmax, "log": log,
}  # fmt: skip

FUNCTIONS: dict[Any, Rule] = {
    F.max_pool2d: max_pool2d, torch.max_pool2d: max_pool2d, F.avg_pool2d: avg_pool2d,
    F.max_pool1d: max_pool1d, torch.max_pool1d: max_pool1d, F.avg_pool1d: avg_pool1d,
    F.adaptive_avg_pool1d: adaptive_avg_pool1d, F.adaptive_max_pool1d: adaptive_max_pool1d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d, F.adaptive_max_pool2d: adaptive_max_pool2d, torch.mean: mean,
    torch.sum: total, torch.amax: greatest, torch.amin: least, torch.max: torch_max, torch.min: torch_min,
    torch.var: var, torch.std: std, torch.norm: norm, torch.linalg.vector_norm: vector_norm, torch.log: log,
    F.normalize: normalize, torch.logsumexp: logsumexp, F.log_softmax: log_softmax, torch.log_softmax: log_softmax,
}  # fmt: skip
