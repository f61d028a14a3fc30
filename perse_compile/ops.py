"""The operations a program is made of.

After the canonicalise pass every node of a program's graph is a placeholder, a get_attr, the output, or a
call to one of these functions. Each runs in PyTorch (the reference) and has a lowering in
`perse_compile.lowering`. Tensors are float32 with the batch first; images are logically NCHW.
Arguments that are not tensors are Python ints, floats, bools or tuples of them, so that a graph can be
written as JSON. All arguments are positional in a program's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """(N,I,H,W) * (O,I/groups,KH,KW) -> (N,O,OH,OW)."""
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., I) * (O, I) -> (..., O)."""
    return F.linear(x, weight, bias)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Per channel (dimension 1): x * scale + shift. What is left of a batch norm that could not be folded."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return x * scale.view(shape) + shift.view(shape)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Over the last dimension; weight and bias are both there or both not."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def relu6(x: Tensor) -> Tensor:
    return F.relu6(x)


def clamp(x: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(x, low, high)


def hardswish(x: Tensor) -> Tensor:
    return F.hardswish(x)


def hardsigmoid(x: Tensor) -> Tensor:
    return F.hardsigmoid(x)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) form."""
    return F.gelu(x)


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(x, slope)


def elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


def mish(x: Tensor) -> Tensor:
    return F.mish(x)


def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


def log(x: Tensor) -> Tensor:
    return torch.log(x)


def sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


def reciprocal(x: Tensor) -> Tensor:
    return 1 / x


def absolute(x: Tensor) -> Tensor:
    return torch.abs(x)


def softmax(x: Tensor, dim: int) -> Tensor:
    return torch.softmax(x, dim)


def add(a: Tensor, b: Tensor | float) -> Tensor:
    return a + b


def sub(a: Tensor, b: Tensor | float) -> Tensor:
    return a - b


def mul(a: Tensor, b: Tensor | float) -> Tensor:
    return a * b


def div(a: Tensor, b: Tensor | float) -> Tensor:
    return a / b


def maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b)


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> Tensor:
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)


def avg_pool2d(
    x: Tensor, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool, count_include_pad: bool
) -> Tensor:
    return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad)


def adaptive_avg_pool2d(x: Tensor, size: Pair) -> Tensor:
    return F.adaptive_avg_pool2d(x, size)


def adaptive_max_pool2d(x: Tensor, size: Pair) -> Tensor:
    return F.adaptive_max_pool2d(x, size)


def mean(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """dims are non-negative and never 0."""
    return x.mean(dims, keepdim)


def amax(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """dims are non-negative and never 0."""
    return x.amax(dims, keepdim)


def concat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """dim is positive."""
    return torch.cat(list(tensors), dim)


def slice_dim(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """x[..., start:stop, ...] at dim; 0 < dim, 0 <= start < stop <= size."""
    return x.narrow(dim, start, stop - start)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The shape leaves out the batch and has no -1. (N, *) -> (N, *shape)."""
    return x.reshape(x.shape[0], *shape)


def permute(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """dims[0] is 0: the batch stays first."""
    return x.permute(dims)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Output channel i*groups + g is input channel g*(C/groups) + i."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def pad(x: Tensor, pads: tuple[int, int, int, int], value: float) -> Tensor:
    """(left, right, top, bottom) of the last two dimensions."""
    return F.pad(x, pads, "constant", value)


def pad_by_image(x: Tensor, pads: tuple[int, int, int, int], mode: str) -> Tensor:
    """(left, right, top, bottom) by "reflect", "replicate" or "circular"."""
    return F.pad(x, pads, mode)


def pad_channels(x: Tensor, before: int, after: int, value: float) -> Tensor:
    """(N,C,H,W) -> (N, before + C + after, H, W)."""
    return F.pad(x, (0, 0, 0, 0, before, after), "constant", value)


def upsample(x: Tensor, factors: Pair) -> Tensor:
    """Every pixel of (N,C,H,W) so many times in height and in width."""
    return x.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)


def pool_features(x: Tensor, grid: int) -> Tensor:
    """What a head reads of its tap: means over a grid x grid raster, (N,C,H,W) -> (N, C*grid*grid), channels outermost.

    A tap that is (N, C) already passes through.
    """
    return x if x.dim() == 2 else F.adaptive_avg_pool2d(x, grid).flatten(1)


def head(features: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits of an exit: ((features - shift) * scale) @ weight + bias; (N,F) -> (N,K), weight is (F,K)."""
    return ((features - shift) * scale) @ weight + bias


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """(..., M, K) by (..., K, P), of as many dimensions, the others equal."""
    return a @ b


def log_softmax(x: Tensor) -> Tensor:
    return torch.log_softmax(x, -1)


def total(x: Tensor) -> Tensor:
    """Sum of all elements, a scalar."""
    return x.sum()


# What they do to one element depends on nothing else of the image.
ACTIVATIONS = (
    "relu", "relu6", "clamp", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "leaky_relu", "elu",
    "softplus", "mish", "exp", "log", "sqrt", "reciprocal", "absolute",
)  # fmt: skip
ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum")

OPS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        conv2d, linear, affine, layer_norm,
        relu, relu6, clamp, hardswish, hardsigmoid, sigmoid, silu, gelu, tanh, leaky_relu, elu, softplus, mish,
        exp, log, sqrt, reciprocal, absolute, softmax,
        add, sub, mul, div, maximum, minimum,
        max_pool2d, avg_pool2d, adaptive_avg_pool2d, adaptive_max_pool2d, mean, amax,
        concat, slice_dim, reshape, permute, channel_shuffle, pad, pad_by_image, pad_channels, upsample,
        pool_features, head, matmul, log_softmax, total,
    )
}  # fmt: skip
