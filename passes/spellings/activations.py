"""Activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.passes.spellings.rules import (
    Node,
    Rule,
    Unsupported,
    dimension,
    elementwise,
    implied,
    in_place,
    is_node,
    of_module,
    overwritten,
)

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


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


def selu(e: Emitter, input: Node, inplace: bool = False) -> Node:
    """Klambauer et al., Self-Normalizing Neural Networks: the two constants are theirs."""
    bent = e("elu", input, 1.6732632423543772, suffix="elu")
    return overwritten(e, input, e("mul", bent, 1.0507009873554805), inplace)


def celu(e: Emitter, input: Node, alpha: float = 1.0, inplace: bool = False) -> Node:
    """a * elu(x / a)."""
    bent = e("elu", e("mul", input, 1.0 / alpha, suffix="scaled"), 1.0, suffix="elu")
    return overwritten(e, input, e("mul", bent, float(alpha)), inplace)


def softplus(e: Emitter, input: Node, beta: float = 1.0, threshold: float = 20.0) -> Node:
    """Above the threshold torch gives x itself, which from 15 on is the same to six digits."""
    if threshold < 15:
        raise Unsupported(f"a threshold of {threshold}, which is seen in the result; 20 is usual")
    if beta == 1.0:
        return e("softplus", input)
    return e("mul", e("softplus", e("mul", input, float(beta), suffix="scaled"), suffix="soft"), 1.0 / beta)


def logsigmoid(e: Emitter, input: Node) -> Node:
    return e("mul", e("softplus", e("mul", input, -1.0, suffix="negated"), suffix="soft"), -1.0)


def softsign(e: Emitter, input: Node) -> Node:
    return e("div", input, e("add", e("absolute", input, suffix="size"), 1.0, suffix="gate"))


def tanhshrink(e: Emitter, input: Node) -> Node:
    return e("sub", input, e("tanh", input, suffix="tanh"))


def softshrink(e: Emitter, input: Node, lambd: float = 0.5) -> Node:
    return e("sub", input, e("clamp", input, -float(lambd), float(lambd), suffix="within"))


def rrelu(
    e: Emitter, input: Node, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Node:
    if training:
        raise Unsupported("random slopes; they belong to training")
    return leaky_relu(e, input, (lower + upper) / 2, inplace)


def threshold(e: Emitter, input: Node, threshold: float, value: float, inplace: bool = False) -> Node:
    if threshold != value:
        raise Unsupported(f"what is under {threshold} becomes {value}: decisions by pixel are not compiled")
    return overwritten(e, input, clamp(e, input, threshold), inplace)


def clamp_min(e: Emitter, input: Node, min: Any) -> Node:
    return clamp(e, input, min)


def clamp_max(e: Emitter, input: Node, max: Any) -> Node:
    return clamp(e, input, None, max)


def glu(e: Emitter, input: Node, dim: int = -1) -> Node:
    at = dimension(e, input, dim)
    half = e.shape(input)[at] // 2
    value = e("slice_dim", input, at, 0, half, suffix="value")
    gate = e("slice_dim", input, at, half, 2 * half, suffix="gate")
    return e("mul", value, e("sigmoid", gate, suffix="sigmoid"))


def softmin(e: Emitter, input: Node, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Node:
    return softmax(e, e("mul", input, -1.0, suffix="negated"), dim)


def softmax2d_module(e: Emitter, m: nn.Softmax2d, input: Node) -> Node:
    return softmax(e, input, 1)


def softmax(e: Emitter, input: Node, dim: int | None = None, dtype: Any = None, _stacklevel: int = 3) -> Node:
    return e("softmax", input, implied(e, input, dim))


relu, relu6, hardswish, hardsigmoid = (elementwise(op) for op in ("relu", "relu6", "hardswish", "hardsigmoid"))
sigmoid, silu, tanh, mish = (elementwise(op) for op in ("sigmoid", "silu", "tanh", "mish"))

MODULES: dict[type[nn.Module], Rule] = {
    nn.ReLU: of_module(relu), nn.ReLU6: of_module(relu6), nn.Hardswish: of_module(hardswish),
    nn.Hardsigmoid: of_module(hardsigmoid), nn.Sigmoid: of_module(sigmoid), nn.SiLU: of_module(silu),
    nn.Tanh: of_module(tanh), nn.GELU: of_module(gelu, "approximate"),
    nn.Hardtanh: of_module(hardtanh, "min_val", "max_val"), nn.LeakyReLU: of_module(leaky_relu, "negative_slope"),
    nn.ELU: of_module(elu, "alpha"), nn.PReLU: of_module(prelu, "weight"), nn.Softmax: of_module(softmax, "dim"),
    nn.Softmax2d: softmax2d_module, nn.Softmin: of_module(softmin, "dim"), nn.Mish: of_module(mish),
    nn.SELU: of_module(selu), nn.CELU: of_module(celu, "alpha"), nn.Softplus: of_module(softplus, "beta", "threshold"),
    nn.LogSigmoid: of_module(logsigmoid), nn.Softsign: of_module(softsign), nn.Tanhshrink: of_module(tanhshrink),
    nn.Softshrink: of_module(softshrink, "lambd"), nn.RReLU: of_module(rrelu, "lower", "upper"),
    nn.Threshold: of_module(threshold, "threshold", "value"), nn.GLU: of_module(glu, "dim"),
}  # fmt: skip

METHODS: dict[str, Rule] = {
    "relu": relu, "sigmoid": sigmoid, "tanh": tanh, "clamp": clamp, "clip": clamp,
    "clamp_min": clamp_min, "clamp_max": clamp_max, "softmax": softmax,
}  # fmt: skip
METHODS |= {f"{name}_": in_place(METHODS[name]) for name in METHODS}

FUNCTIONS: dict[Any, Rule] = {
    F.relu: relu, torch.relu: relu, F.relu6: relu6, F.hardswish: hardswish, F.hardsigmoid: hardsigmoid, F.silu: silu,
    F.sigmoid: sigmoid, torch.sigmoid: sigmoid, F.tanh: tanh, torch.tanh: tanh, F.gelu: gelu, F.hardtanh: hardtanh,
    F.leaky_relu: leaky_relu, F.elu: elu, F.prelu: prelu, torch.prelu: prelu, F.softmax: softmax, F.softmin: softmin,
    torch.softmax: softmax, torch.clamp: clamp, torch.clip: clamp,
    torch.clamp_min: clamp_min, torch.clamp_max: clamp_max, F.mish: mish, F.selu: selu, torch.selu: selu, F.celu: celu,
    F.softplus: softplus, F.logsigmoid: logsigmoid, F.softsign: softsign, F.tanhshrink: tanhshrink,
    F.softshrink: softshrink, F.rrelu: rrelu, F.threshold: threshold, F.glu: glu,
    F.leaky_relu_: in_place(leaky_relu), F.elu_: in_place(elu), F.selu_: in_place(selu),
    F.hardtanh_: in_place(hardtanh), F.relu_: in_place(relu), torch.relu_: in_place(relu),
}  # fmt: skip
