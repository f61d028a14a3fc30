"""How torch spells the operations: one rule per operation, and the tables that lead to it. Used by canonicalise.

A rule takes the emitter `e` and the arguments as torch names them. What depends on the image is a node of the
new graph; everything else is already a plain value or a tensor. Called as `e("relu", x)` the emitter adds a node.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

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


def rank(e: Emitter, x: Node) -> int:
    return len(e.shape(x))


def dimension(e: Emitter, x: Node, dim: int) -> int:
    """Non-negative, and not the batch."""
    dim = dim + rank(e, x) if dim < 0 else dim
    if not 0 < dim < rank(e, x):
        raise Unsupported("works across the batch; keep the batch as dimension 0")
    return dim


# --- layers with weights ----------------------------------------------------------------------------------


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
    if is_node(weight) or is_node(bias):
        raise Unsupported("weights computed from the image")
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


def conv2d_module(e: Emitter, m: nn.Conv2d, input: Node) -> Node:
    if m.padding_mode != "zeros":
        raise Unsupported(f"padding mode {m.padding_mode!r}; use zeros")
    name_parameters(e, m)
    return conv2d(e, input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def linear(e: Emitter, input: Node, weight: Any, bias: Any = None) -> Node:
    if is_node(weight) or is_node(bias):
        raise Unsupported("weights computed from the image")
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
    size = e.shape(input)[-1]
    if tuple(normalized_shape) != (size,):
        raise Unsupported("normalises over more than the last dimension")
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
    if len(shape) != 4 or shape[1] % num_groups:
        raise Unsupported(f"{num_groups} groups of {shape[1:]}")
    rows = e("reshape", input, (num_groups, math.prod(shape[1:]) // num_groups), suffix="groups")
    normal = e("layer_norm", rows, None, None, float(eps), suffix="normal")
    if weight is None:
        return e("reshape", normal, shape[1:])
    return e("affine", e("reshape", normal, shape[1:], suffix="image"), weight, bias)


def group_norm_module(e: Emitter, m: nn.GroupNorm, input: Node) -> Node:
    return group_norm(e, input, m.num_groups, m.weight, m.bias, m.eps)


def instance_norm_module(e: Emitter, m: nn.InstanceNorm2d, input: Node) -> Node:
    """As many groups as channels; with running statistics a batch norm."""
    if m.running_mean is not None:
        return batch_norm(e, input, m.running_mean, m.running_var, m.weight, m.bias, False, None, m.eps)
    return group_norm(e, input, e.shape(input)[1], m.weight, m.bias, m.eps)


# --- activations ------------------------------------------------------------------------------------------


def in_place(rule: Rule) -> Rule:
    """The rule of a method like relu_: what was x is the result from now on."""

    def rule_in_place(e: Emitter, x: Node, *args: Any, **kwargs: Any) -> Any:
        result = rule(e, x, *args, **kwargs)
        if is_node(x):
            e.overwrite(x, result)
        return result

    return rule_in_place


def activation(op: str) -> Rule:
    def rule(e: Emitter, input: Node, inplace: bool = False) -> Node:
        return overwritten(e, input, e(op, input), inplace)

    return rule


def overwritten(e: Emitter, old: Node, new: Node, inplace: bool) -> Node:
    if inplace:
        e.overwrite(old, new)
    return new


def activation_module(rule: Rule, *fields: str) -> Rule:
    """Fields of the module are further arguments of the rule."""

    def module_rule(e: Emitter, m: nn.Module, input: Node) -> Node:
        result: Node = rule(e, input, *(getattr(m, field) for field in fields))
        return overwritten(e, input, result, bool(getattr(m, "inplace", False)))

    return module_rule


def clamp(e: Emitter, input: Node, min: Any = None, max: Any = None) -> Node:
    if is_node(min) or is_node(max) or isinstance(min, Tensor) or isinstance(max, Tensor):
        raise Unsupported("limits that are tensors")
    low, high = -math.inf if min is None else float(min), math.inf if max is None else float(max)
    if (low, high) == (0.0, math.inf):
        return e("relu", input)
    return e("relu6", input) if (low, high) == (0.0, 6.0) else e("clamp", input, low, high)


def hardtanh(e: Emitter, input: Node, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Node:
    return overwritten(e, input, clamp(e, input, min_val, max_val), inplace)


def leaky_relu(e: Emitter, input: Node, negative_slope: float = 0.01, inplace: bool = False) -> Node:
    return overwritten(e, input, e("leaky_relu", input, float(negative_slope)), inplace)


def elu(e: Emitter, input: Node, alpha: float = 1.0, inplace: bool = False) -> Node:
    return overwritten(e, input, e("elu", input, float(alpha)), inplace)


def prelu(e: Emitter, input: Node, weight: Tensor) -> Node:
    """relu(x) - a * relu(-x)."""
    slope = weight.detach().expand(e.shape(input)[1]).contiguous()
    scale, shift = e.name_tensor(-slope, "scale"), e.name_tensor(torch.zeros_like(slope), "shift")
    below = e(
        "affine", e("relu", e("mul", input, -1.0, suffix="negated"), suffix="below"), scale, shift, suffix="scaled"
    )
    return e("add", e("relu", input, suffix="above"), below)


def gelu(e: Emitter, input: Node, approximate: str = "none") -> Node:
    if approximate == "none":
        return e("gelu", input)
    cubed = e("mul", e("mul", e("mul", input, input, suffix="squared"), input, suffix="cubed"), 0.044715, suffix="bent")
    inner = e("mul", e("add", input, cubed, suffix="inner"), math.sqrt(2 / math.pi), suffix="scaled")
    gate = e("add", e("tanh", inner, suffix="tanh"), 1.0, suffix="gate")
    return e("mul", e("mul", input, gate, suffix="gated"), 0.5)


def softmax(e: Emitter, input: Node, dim: int = -1, dtype: Any = None, _stacklevel: int = 3) -> Node:
    return e("softmax", input, dimension(e, input, dim))


# --- arithmetic -------------------------------------------------------------------------------------------


def arithmetic(op: str) -> Rule:
    def rule(e: Emitter, input: Any, other: Any, alpha: float = 1.0) -> Node:
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
    if not isinstance(constant, Tensor):
        return e(op, x, float(constant))
    constant = constant.detach().float()
    if constant.numel() == 1:
        return e(op, x, float(constant))
    per_channel = channel_constant(e, x, constant)
    if per_channel is None:
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
        raise Unsupported("a constant divided by a tensor")
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


def power(e: Emitter, input: Node, exponent: Any) -> Node:
    if exponent != 2:
        raise Unsupported(f"power {exponent}; only squares")
    return e("mul", input, input)


def square(e: Emitter, input: Node) -> Node:
    return e("mul", input, input)


def matmul(e: Emitter, input: Any, other: Any) -> Node:
    if is_node(input) and isinstance(other, Tensor) and other.dim() == 2:
        return linear(e, input, e.name_tensor(other.detach().t().contiguous(), "weight"))
    raise Unsupported("a product of two tensors that depend on the image")


def unchanged(e: Emitter, input: Node, *args: Any, **kwargs: Any) -> Node:
    return input


def unchanged_module(e: Emitter, m: nn.Module, input: Node) -> Node:
    return input


def expand(e: Emitter, input: Node, *sizes: Any) -> Node:
    """Multiplying and adding broadcast by themselves."""
    broadcasting = (operator.mul, operator.add, operator.sub, torch.mul, torch.add, "mul", "add", "sub", "mul_", "add_")
    if any(user.target not in broadcasting for user in e.users()):
        raise Unsupported("expanded for something else than arithmetic")
    return input


# --- pools ------------------------------------------------------------------------------------------------


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


# --- shapes -----------------------------------------------------------------------------------------------


def reshape(e: Emitter, input: Node, *shape: Any) -> Node:
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    if any(is_node(size) for size in sizes):
        raise Unsupported("a shape computed from the image's content")
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(e.shape(input)) // max(known, 1)
    return reshape_to(e, input, tuple(sizes))


def reshape_to(e: Emitter, x: Node, shape: tuple[int, ...]) -> Node:
    """To a shape with the batch. Two reshapes are one; none if nothing changes; a shuffle is an operation."""
    if math.prod(shape) != math.prod(e.shape(x)):
        raise Unsupported(f"cannot make {shape[1:]} of {e.shape(x)[1:]}")
    if not shape or shape[0] != BATCH:
        raise Unsupported(
            "mixes the batch with other dimensions; keep the batch as dimension 0 (view(x.size(0), ...), flatten(1))"
        )
    source: Any = x.args[0] if x.args else None
    if is_call(x, "reshape"):
        return reshape_to(e, source, shape)
    if is_call(x, "permute") and x.args[1] == (0, 2, 1, 3, 4) and is_call(source, "reshape"):
        whole, groups = source.args[0], e.shape(source)[1]
        if e.shape(whole) == shape:
            return e("channel_shuffle", whole, groups)
    return x if e.shape(x) == shape else e("reshape", x, tuple(shape[1:]))


def is_call(x: Node, name: str) -> bool:
    return x.op == "call_function" and x.target.__name__ == name  # type: ignore[union-attr]


def flatten(e: Emitter, input: Node, start_dim: int = 0, end_dim: int = -1) -> Node:
    shape = e.shape(input)
    start, end = start_dim % len(shape), end_dim % len(shape)
    return reshape_to(e, input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def unflatten(e: Emitter, input: Node, dim: int, sizes: Any) -> Node:
    shape, dim = e.shape(input), dimension(e, input, dim)
    return reshape(e, input, (*shape[:dim], *sizes, *shape[dim + 1 :]))


def squeeze(e: Emitter, input: Node, dim: Any = None) -> Node:
    shape = e.shape(input)
    dims = (
        range(1, len(shape))
        if dim is None
        else [dimension(e, input, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    )
    return reshape_to(e, input, tuple(s for i, s in enumerate(shape) if i not in dims or s != 1))


def unsqueeze(e: Emitter, input: Node, dim: int) -> Node:
    shape = list(e.shape(input))
    shape.insert(dim + len(shape) + 1 if dim < 0 else dim, 1)
    return reshape_to(e, input, tuple(shape))


def permute(e: Emitter, input: Node, *dims: Any) -> Node:
    order = tuple(d % rank(e, input) for d in (dims[0] if isinstance(dims[0], (tuple, list)) else dims))
    if order[0] != 0:
        raise Unsupported("moves the batch; keep it as dimension 0")
    return input if order == tuple(range(len(order))) else e("permute", input, order)


def transpose(e: Emitter, input: Node, dim0: int, dim1: int) -> Node:
    order = list(range(rank(e, input)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute(e, input, order)


def channel_shuffle(e: Emitter, input: Node, groups: int) -> Node:
    return e("channel_shuffle", input, int(groups))


def concat(e: Emitter, tensors: Any, dim: int = 0, axis: int | None = None) -> Node:
    if not all(is_node(t) for t in tensors):
        raise Unsupported("joins a constant to a tensor")
    at = dimension(e, tensors[0], dim if axis is None else axis)
    return tensors[0] if len(tensors) == 1 else e("concat", tuple(tensors), at)


def pad(e: Emitter, input: Node, pad: Any, mode: str = "constant", value: Any = None) -> Node:
    pads = [int(p) for p in pad]
    if mode != "constant":
        raise Unsupported(f"padding mode {mode!r}; use zeros")
    if any(pads[4:]) or min(pads) < 0 or rank(e, input) != 4:
        raise Unsupported("pads other than height and width, or negative ones")
    left, right, top, bottom = [*pads, 0, 0, 0, 0][:4]
    return e("pad", input, (left, right, top, bottom), float(value or 0.0)) if any(pads) else input


def pad_module(e: Emitter, m: nn.ZeroPad2d, input: Node) -> Node:
    return pad(e, input, m.padding, "constant", m.value)


# --- taking parts -----------------------------------------------------------------------------------------


def getitem(e: Emitter, x: Any, index: Any) -> Any:
    if not is_node(x):
        return x[index]
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (rank(e, x) - sum(i is not None for i in items) + 1)
    shape: list[int] = []
    dim = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        if isinstance(item, int):
            item = item % e.shape(x)[dim]
            x = take(e, x, dim, item, item + 1)
        elif isinstance(item, slice):
            x = take_slice(e, x, dim, item)
            shape.append(e.shape(x)[dim])
        else:
            raise Unsupported(f"index {item!r}; only numbers and slices")
        dim += 1
    return reshape_to(e, x, (*shape, *e.shape(x)[dim:]))


def take_slice(e: Emitter, x: Node, dim: int, item: slice) -> Node:
    start, stop, step = item.indices(e.shape(x)[dim])
    if step == 1:
        return take(e, x, dim, start, stop)
    if dim not in (2, 3) or rank(e, x) != 4 or step < 1:
        raise Unsupported("a slice with a step, other than of height and width")
    x = take(e, x, dim, start, stop)
    return e("max_pool2d", x, (1, 1), (step, 1) if dim == 2 else (1, step), (0, 0), (1, 1), False, suffix="every")


def take(e: Emitter, x: Node, dim: int, start: int, stop: int) -> Node:
    if (start, stop) == (0, e.shape(x)[dim]):
        return x
    if start >= stop:
        raise Unsupported("an empty slice")
    return e("slice_dim", x, dimension(e, x, dim), int(start), int(stop))


def chunk(e: Emitter, input: Node, chunks: int, dim: int = 0) -> tuple[Node, ...]:
    return split(e, input, -(-e.shape(input)[dim] // chunks), dim)


def split(e: Emitter, input: Node, split_size_or_sections: Any, dim: int = 0) -> tuple[Node, ...]:
    dim = dimension(e, input, dim)
    size, sections = e.shape(input)[dim], split_size_or_sections
    if isinstance(sections, int):
        sections = [min(sections, size - at) for at in range(0, size, sections)]
    starts = [sum(sections[:i]) for i in range(len(sections))]
    return tuple(
        e("slice_dim", input, dim, a, a + n, suffix=str(i))
        for i, (a, n) in enumerate(zip(starts, sections, strict=True))
    )


def narrow(e: Emitter, input: Node, dim: int, start: int, length: int) -> Node:
    return take(e, input, dimension(e, input, dim), start, start + length)


def select(e: Emitter, input: Node, dim: int, index: int) -> Any:
    return getitem(e, input, (slice(None),) * dimension(e, input, dim) + (index,))


# --- questions about a tensor -----------------------------------------------------------------------------


def size(e: Emitter, input: Node, dim: int | None = None) -> Any:
    return e.shape(input) if dim is None else e.shape(input)[dim]


def attribute(e: Emitter, input: Node, name: str) -> Any:
    known = {
        "shape": e.shape(input),
        "ndim": rank(e, input),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "is_cuda": False,
        "requires_grad": False,
    }
    if name not in known:
        raise Unsupported(f"attribute {name!r} of a tensor")
    return known[name]


def nothing(e: Emitter, *args: Any, **kwargs: Any) -> None:
    return None


# --- the tables -------------------------------------------------------------------------------------------

relu, relu6, hardswish, hardsigmoid = (activation(op) for op in ("relu", "relu6", "hardswish", "hardsigmoid"))
sigmoid, silu, tanh = (activation(op) for op in ("sigmoid", "silu", "tanh"))
add, sub, mul, div = (arithmetic(op) for op in ("add", "sub", "mul", "div"))
adaptive_avg_pool2d, adaptive_max_pool2d = adaptive("adaptive_avg_pool2d"), adaptive("adaptive_max_pool2d")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d_module, nn.Linear: linear_module, nn.LayerNorm: layer_norm_module,
    nn.GroupNorm: group_norm_module, nn.InstanceNorm2d: instance_norm_module,
    nn.BatchNorm1d: batch_norm_module, nn.BatchNorm2d: batch_norm_module, nn.SyncBatchNorm: batch_norm_module,
    nn.ReLU: activation_module(relu), nn.ReLU6: activation_module(relu6), nn.Hardswish: activation_module(hardswish),
    nn.Hardsigmoid: activation_module(hardsigmoid), nn.Sigmoid: activation_module(sigmoid),
    nn.SiLU: activation_module(silu),
    nn.Tanh: activation_module(tanh), nn.GELU: activation_module(gelu, "approximate"),
    nn.Hardtanh: activation_module(hardtanh, "min_val", "max_val"),
    nn.LeakyReLU: activation_module(leaky_relu, "negative_slope"),
    nn.ELU: activation_module(elu, "alpha"), nn.PReLU: activation_module(prelu, "weight"),
    nn.Softmax: activation_module(softmax, "dim"),
    nn.MaxPool2d: activation_module(
        max_pool2d, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: activation_module(
        avg_pool2d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: activation_module(adaptive_avg_pool2d, "output_size"),
    nn.AdaptiveMaxPool2d: activation_module(adaptive_max_pool2d, "output_size", "return_indices"),
    nn.Flatten: activation_module(flatten, "start_dim", "end_dim"),
    nn.Unflatten: activation_module(unflatten, "dim", "unflattened_size"),
    nn.ZeroPad2d: pad_module, nn.ConstantPad2d: pad_module,
    nn.ChannelShuffle: activation_module(channel_shuffle, "groups"),
    nn.Identity: unchanged_module,
}  # fmt: skip

METHODS: dict[str, Rule] = {
    "relu": relu, "sigmoid": sigmoid, "tanh": tanh, "clamp": clamp, "clip": clamp, "softmax": softmax,
    "add": add, "sub": sub, "mul": mul, "div": div, "neg": negative, "pow": power, "square": square, "matmul": matmul,
    "mean": mean, "sum": total, "amax": greatest,
    "view": reshape, "reshape": reshape, "flatten": flatten, "unflatten": unflatten, "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "permute": permute, "transpose": transpose, "chunk": chunk, "split": split, "narrow": narrow, "select": select,
    "size": size, "dim": rank, "expand": expand, "expand_as": expand,
    "contiguous": unchanged, "clone": unchanged, "detach": unchanged, "to": unchanged, "float": unchanged,
    "type_as": unchanged,
}  # fmt: skip
METHODS |= {
    f"{name}_": in_place(METHODS[name])
    for name in ("relu", "sigmoid", "tanh", "clamp", "add", "sub", "mul", "div", "neg")
}

FUNCTIONS: dict[Any, Rule] = {
    F.conv2d: conv2d, torch.conv2d: conv2d, F.linear: linear, F.batch_norm: batch_norm, F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.relu: relu, torch.relu: relu, F.relu6: relu6, F.hardswish: hardswish, F.hardsigmoid: hardsigmoid, F.silu: silu,
    F.sigmoid: sigmoid, torch.sigmoid: sigmoid, F.tanh: tanh, torch.tanh: tanh, F.gelu: gelu, F.hardtanh: hardtanh,
    F.leaky_relu: leaky_relu, F.elu: elu, F.prelu: prelu, torch.prelu: prelu, F.softmax: softmax,
    torch.softmax: softmax,
    F.relu_: in_place(relu), torch.relu_: in_place(relu), torch.clamp: clamp, torch.clip: clamp,
    operator.add: add, torch.add: add, operator.sub: sub, torch.sub: sub, operator.mul: mul, torch.mul: mul,
    operator.truediv: div, torch.div: div, operator.neg: negative, torch.neg: negative, operator.pow: power,
    torch.pow: power,
    operator.iadd: in_place(add), operator.isub: in_place(sub), operator.imul: in_place(mul),
    operator.itruediv: in_place(div),
    torch.square: square, operator.matmul: matmul, torch.matmul: matmul,
    F.max_pool2d: max_pool2d, torch.max_pool2d: max_pool2d, F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d, F.adaptive_max_pool2d: adaptive_max_pool2d,
    torch.mean: mean, torch.sum: total, torch.amax: greatest,
    torch.reshape: reshape, torch.flatten: flatten, torch.unflatten: unflatten, torch.squeeze: squeeze,
    torch.unsqueeze: unsqueeze,
    torch.permute: permute, torch.transpose: transpose, torch.cat: concat, torch.concat: concat,
    F.channel_shuffle: channel_shuffle, torch.channel_shuffle: channel_shuffle, F.pad: pad,
    operator.getitem: getitem, torch.chunk: chunk, torch.split: split, torch.narrow: narrow, torch.select: select,
    getattr: attribute, torch._assert: nothing,
}  # fmt: skip

# Functions on plain numbers and tuples, which are computed rather than compiled.
PLAIN_FUNCTIONS: set[Any] = {
    operator.floordiv, operator.mod, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    int, float, bool, len, min, max, round, tuple, list,
}  # fmt: skip
