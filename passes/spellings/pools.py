"""Pools and reductions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, dimension, of_module, pair, rank
from perse_compile.passes.spellings.shapes import reshape_to

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


def adaptive(op: str) -> Rule:
    def rule(e: Emitter, input: Node, output_size: Any, return_indices: bool = False) -> Node:
        sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        size = tuple(
            int(own if wanted is None else wanted) for wanted, own in zip(sizes, e.shape(input)[-2:], strict=True)
        )
        return input if size == e.shape(input)[-2:] else e(op, input, size)

    return rule


def mean(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
    return e("mean", input, dimensions(e, input, dim), bool(keepdim))


def total(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
    dims = dimensions(e, input, dim)
    count = math.prod(e.shape(input)[d] for d in dims)
    return e("mul", e("mean", input, dims, bool(keepdim), suffix="mean"), float(count))


def greatest(e: Emitter, input: Node, dim: Any = None, keepdim: bool = False) -> Node:
    if dimensions(e, input, dim) != (2, 3) or rank(e, input) != 4:
        raise Unsupported("a maximum over anything but height and width")
    return reshape_to(
        e, e("adaptive_max_pool2d", input, (1, 1), suffix="pool"), e.shape(input)[:2] + (1, 1) * bool(keepdim)
    )


def dimensions(e: Emitter, x: Node, dim: Any) -> tuple[int, ...]:
    if dim is None:
        raise Unsupported("reduces the batch too; give the dimensions")
    return tuple(sorted(dimension(e, x, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))))


adaptive_avg_pool2d, adaptive_max_pool2d = adaptive("adaptive_avg_pool2d"), adaptive("adaptive_max_pool2d")

MODULES: dict[type[nn.Module], Rule] = {
    nn.MaxPool2d: of_module(
        max_pool2d, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: of_module(
        avg_pool2d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: of_module(adaptive_avg_pool2d, "output_size"),
    nn.AdaptiveMaxPool2d: of_module(adaptive_max_pool2d, "output_size", "return_indices"),
}  # fmt: skip

METHODS: dict[str, Rule] = {"mean": mean, "sum": total, "amax": greatest}

FUNCTIONS: dict[Any, Rule] = {
    F.max_pool2d: max_pool2d, torch.max_pool2d: max_pool2d, F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d, F.adaptive_max_pool2d: adaptive_max_pool2d,
    torch.mean: mean, torch.sum: total, torch.amax: greatest,
}  # fmt: skip
