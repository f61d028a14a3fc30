"""Element-wise functions as TIR expressions that LLVM can vectorise (no calls to libm)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

Expr = Any


def constant(value: float) -> Expr:
    return tirx.const(float(value), "float32")


def _maximum(x: Expr, y: Expr) -> Expr:
    return tirx.max(x, y)


def _minimum(x: Expr, y: Expr) -> Expr:
    return tirx.min(x, y)


def clamp(x: Expr, low: float, high: float) -> Expr:
    return _maximum(_minimum(x, constant(high)), constant(low))


def exp(x: Expr) -> Expr:
    """2^n * e^r with |r| <= ln2/2 and a degree-6 polynomial; relative error about 1e-7 (Cephes expf's scheme)."""
    x = clamp(x, -87.3, 88.3)
    n = tvm.tirx.floor(x * constant(1.4426950408889634) + constant(0.5))
    r = x - n * constant(0.693359375)
    r = r - n * constant(-2.12194440e-4)
    poly = constant(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        poly = poly * r + constant(coefficient)
    value = poly * r * r + r + constant(1.0)
    power = tirx.reinterpret("float32", (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32"))
    return value * power


def sigmoid(x: Expr) -> Expr:
    return constant(1.0) / (constant(1.0) + exp(constant(0.0) - x))


def tanh(x: Expr) -> Expr:
    return constant(1.0) - constant(2.0) / (exp(x * constant(2.0)) + constant(1.0))


def erf(x: Expr) -> Expr:
    """Abramowitz and Stegun 7.1.28's successor 7.1.26 with the exponential; absolute error below 1.5e-7."""
    magnitude = tirx.abs(x)
    t = constant(1.0) / (constant(1.0) + constant(0.3275911) * magnitude)
    poly = constant(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = poly * t + constant(coefficient)
    value = constant(1.0) - poly * t * exp(constant(0.0) - magnitude * magnitude)
    return tirx.Select(x < constant(0.0), constant(0.0) - value, value)


def hardsigmoid(x: Expr) -> Expr:
    return clamp(x + constant(3.0), 0.0, 6.0) * constant(1.0 / 6.0)


UNARY: dict[str, Callable[..., Expr]] = {
    "relu": lambda x: _maximum(x, constant(0.0)),
    "relu6": lambda x: clamp(x, 0.0, 6.0),
    "clamp": clamp,
    "hardswish": lambda x: x * hardsigmoid(x),
    "hardsigmoid": hardsigmoid,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * constant(0.5) * (constant(1.0) + erf(x * constant(0.7071067811865476))),
    "tanh": tanh,
    "leaky_relu": lambda x, slope: tirx.Select(x > constant(0.0), x, x * constant(slope)),
    "elu": lambda x, alpha: tirx.Select(x > constant(0.0), x, (exp(x) - constant(1.0)) * constant(alpha)),
}

BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
