"""Layers with weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.passes.spellings.arithmetic import power
from perse_compile.passes.spellings.padding import pad
from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, is_node, of_module, pair, rank
from perse_compile.passes.spellings.shapes import an_image, reshape_to

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


def known(*weights: Any) -> None:
    if any(map(is_node, weights)):
        raise Unsupported("weights computed from the image")


def conv2d(
    e: Emitter,
    input: Node,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Node:
    known(weight, bias)
    if rank(e, input) != 4:
        raise Unsupported("a convolution needs (N, C, H, W)")
    dilation = pair(dilation)
    if padding == "valid":
        padding = 0
    if padding == "same":
        height, width = (d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
        padding = (height // 2, width // 2)
        if height % 2 or width % 2:
            input = e(
                "pad", input, (width // 2, width - width // 2, height // 2, height - height // 2), 0.0, suffix="pad"
            )
            padding = 0
    return e("conv2d", input, weight, bias, pair(stride), pair(padding), dilation, int(groups))


def conv_transpose2d(
    e: Emitter, input: Node, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Node:  # fmt: skip
    """A convolution of pixels with zeros between, by the kernel turned round."""
    known(weight, bias)
    (down, across), dilation = pair(stride), pair(dilation)
    height, width = an_image(e, input)[2:]
    if (down, across) != (1, 1):
        there = torch.zeros(1, 1, height * down, width * across)
        there[:, :, ::down, ::across] = 1
        apart = e("upsample", input, (down, across), suffix="grown")
        input = e("mul", apart, e.name_tensor(there, "pixels"), suffix="apart")
    ends = zip(pair(padding), pair(output_padding), weight.shape[2:], dilation, (down, across), strict=True)
    top_bottom, left_right = [(d * (k - 1) - p, d * (k - 1) - p + more - s + 1) for p, more, k, d, s in ends]
    around = pad(e, input, (*left_right, *top_bottom))
    incoming, outgoing, *kernel = weight.shape
    turned = weight.detach().flip(2, 3).reshape(groups, incoming // groups, outgoing, *kernel).transpose(1, 2)
    turned = e.name_tensor(turned.reshape(groups * outgoing, incoming // groups, *kernel).contiguous(), "turned")
    return conv2d(e, around, turned, bias, 1, 0, dilation, groups)


def conv_transpose2d_module(e: Emitter, m: nn.ConvTranspose2d, input: Node) -> Node:
    name_parameters(e, m)
    return conv_transpose2d(e, input, m.weight, m.bias, m.stride, m.padding, m.output_padding, m.groups, m.dilation)


def conv1d(
    e: Emitter,
    input: Node,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Node:
    """Of (N, C, L), as of an image of one row."""
    known(weight, bias)
    _, channels, length = e.shape(input)
    row = e("reshape", input, (channels, 1, length), suffix="row")
    kernel = e.name_tensor(weight.detach().unsqueeze(2), "kernel")
    pads = padding if isinstance(padding, str) else (0, one(padding))
    made = conv2d(e, row, kernel, bias, (1, one(stride)), pads, (1, one(dilation)), groups)
    return reshape_to(e, made, (e.shape(made)[0], e.shape(made)[1], e.shape(made)[3]))


def one(value: Any) -> int:
    return int(value[0] if isinstance(value, (tuple, list)) else value)


def conv1d_module(e: Emitter, m: nn.Conv1d, input: Node) -> Node:
    if m.padding_mode != "zeros":
        raise Unsupported(f"padding mode {m.padding_mode!r}; use zeros")
    name_parameters(e, m)
    return conv1d(e, input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def conv2d_module(e: Emitter, m: nn.Conv2d, input: Node) -> Node:
    name_parameters(e, m)
    if m.padding_mode == "zeros":
        return conv2d(e, input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)
    around = [int(n) for n in m._reversed_padding_repeated_twice]
    padded = e("pad_by_image", input, tuple(around), m.padding_mode, suffix="padded") if any(around) else input
    return conv2d(e, padded, m.weight, m.bias, m.stride, 0, m.dilation, m.groups)


def linear(e: Emitter, input: Node, weight: Any, bias: Any = None) -> Node:
    known(weight, bias)
    return e("linear", input, weight, bias)


def linear_module(e: Emitter, m: nn.Linear, input: Node) -> Node:
    name_parameters(e, m)
    return linear(e, input, m.weight, m.bias)


def name_parameters(e: Emitter, m: nn.Module) -> None:
    """Parametrised weights are computed, so no name leads to them."""
    for leaf in ("weight", "bias"):
        if isinstance(getattr(m, leaf, None), Tensor) and leaf not in m._parameters:
            e.name_tensor(getattr(m, leaf), leaf)


def batch_norm(
    e: Emitter, input: Node, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Node:  # fmt: skip
    if running_mean is None or running_var is None or training:
        raise Unsupported("normalises by the batch itself; use running statistics")
    scale = (1.0 if weight is None else weight.detach().double()) / torch.sqrt(running_var.detach().double() + eps)
    shift = (0.0 if bias is None else bias.detach().double()) - running_mean.detach().double() * scale
    return e("affine", input, e.name_tensor(scale.float(), "scale"), e.name_tensor(shift.float(), "shift"))


def batch_norm_module(e: Emitter, m: nn.BatchNorm2d, input: Node) -> Node:
    return batch_norm(e, input, m.running_mean, m.running_var, m.weight, m.bias, False, None, m.eps)


def layer_norm(
    e: Emitter, input: Node, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Node:
    shape, over = e.shape(input), tuple(normalized_shape)
    size = shape[-1]
    if len(over) >= len(shape) or over != shape[-len(over) :]:
        raise Unsupported(f"normalises over {over} of {shape[1:]}")
    if len(over) > 1:
        kept = shape[: len(shape) - len(over)]
        rows = reshape_to(e, input, (*kept, math.prod(over)))
        normal = reshape_to(e, e("layer_norm", rows, None, None, float(eps), suffix="normal"), shape)
        normal = normal if weight is None else e("mul", normal, weight, suffix="scaled")
        return normal if bias is None else e("add", normal, bias)
    weight = e.name_tensor(torch.ones(size), "weight") if weight is None else weight
    bias = e.name_tensor(torch.zeros(size), "bias") if bias is None else bias
    return e("layer_norm", input, weight, bias, float(eps))


def layer_norm_module(e: Emitter, m: nn.LayerNorm, input: Node) -> Node:
    return layer_norm(e, input, m.normalized_shape, m.weight, m.bias, m.eps)


def group_norm(
    e: Emitter, input: Node, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Node:
    """Each group of channels is one row to normalise."""
    shape = e.shape(input)
    if len(shape) < 3 or shape[1] % num_groups:
        raise Unsupported(f"{num_groups} groups of {shape[1:]}")
    rows = e("reshape", input, (num_groups, math.prod(shape[1:]) // num_groups), suffix="groups")
    normal = e("layer_norm", rows, None, None, float(eps), suffix="normal")
    if weight is None and bias is None:
        return e("reshape", normal, shape[1:])
    weight = e.name_tensor(torch.ones(shape[1]), "weight") if weight is None else weight
    bias = e.name_tensor(torch.zeros(shape[1]), "bias") if bias is None else bias
    return e("affine", e("reshape", normal, shape[1:], suffix="image"), weight, bias)


def group_norm_module(e: Emitter, m: nn.GroupNorm, input: Node) -> Node:
    return group_norm(e, input, m.num_groups, m.weight, m.bias, m.eps)


def instance_norm(
    e: Emitter, input: Node, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: Any = 0.1, eps: float = 1e-5,
) -> Node:  # fmt: skip
    if not use_input_stats:
        return batch_norm(e, input, running_mean, running_var, weight, bias, False, None, eps)
    return group_norm(e, input, e.shape(input)[1], weight, bias, eps)


def local_response_norm(
    e: Emitter, input: Node, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Node:
    """x / (k + alpha * mean of the squares of `size` channels around)^beta; the mean as a 1x1 convolution."""
    channels = e.shape(input)[1]
    at = torch.arange(channels)
    around = at[None] - at[:, None]  # of each channel, how far the others are
    band = ((around >= -(size // 2)) & (around <= (size - 1) // 2)).float() * (alpha / size)
    weight = e.name_tensor(band.reshape(channels, channels, 1, 1), "band")
    bias = e.name_tensor(torch.full((channels,), float(k)), "k")
    squares = e("mul", input, input, suffix="squares")
    return e("div", input, power(e, conv2d(e, squares, weight, bias), beta))


def instance_norm_module(e: Emitter, m: nn.InstanceNorm2d, input: Node) -> Node:
    """As many groups as channels; with running statistics a batch norm."""
    if m.running_mean is not None:
        return batch_norm(e, input, m.running_mean, m.running_var, m.weight, m.bias, False, None, m.eps)
    return group_norm(e, input, e.shape(input)[1], m.weight, m.bias, m.eps)


MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d_module, nn.ConvTranspose2d: conv_transpose2d_module, nn.Conv1d: conv1d_module,
    nn.Linear: linear_module, nn.LayerNorm: layer_norm_module,
    nn.GroupNorm: group_norm_module, nn.InstanceNorm2d: instance_norm_module,
    nn.BatchNorm1d: batch_norm_module, nn.BatchNorm2d: batch_norm_module, nn.SyncBatchNorm: batch_norm_module,
    nn.LocalResponseNorm: of_module(local_response_norm, "size", "alpha", "beta", "k"),
}  # fmt: skip

FUNCTIONS: dict[Any, Rule] = {
    F.conv_transpose2d: conv_transpose2d, torch.conv_transpose2d: conv_transpose2d,
    F.conv2d: conv2d, torch.conv2d: conv2d, F.conv1d: conv1d, torch.conv1d: conv1d, F.linear: linear,
    F.batch_norm: batch_norm, F.layer_norm: layer_norm, F.group_norm: group_norm, F.instance_norm: instance_norm,
    F.local_response_norm: local_response_norm,
}  # fmt: skip
