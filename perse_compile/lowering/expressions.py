"""Element-wise functions as TIR expressions that LLVM can vectorise (no calls to libm)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

Expr = Any


SMALLEST = 1.1754944e-38  # that has all its digits


def constant(value: float) -> Expr:
    return tirx.const(float(value), "float32")


def _maximum(x: Expr, y: Expr) -> Expr:
    return tirx.max(x, y)


def _minimum(x: Expr, y: Expr) -> Expr:
    return tirx.min(x, y)


def clamp(x: Expr, low: float, high: float) -> Expr:
    return _maximum(_minimum(x, constant(high)), constant(low))


def polynomial(x: Expr, *coefficients: float) -> Expr:
    """Horner's scheme, the highest power first."""
    total = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + constant(coefficient)
    return total


def exp(x: Expr) -> Expr:
    """2^n * 2^f with n the nearest integer to x / ln 2; relative error about 2e-7, twice that towards the ends.

    Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits, from where it moves to the exponent.
    The polynomial for 2^f, |f| <= 1/2, is a least-maximum fit of degree 5 (7e-8).
    """
    x = clamp(x, -86.5, 88.0)
    rounder, log2e = 12582912.0, constant(1.4426950408889634)
    bits = tirx.reinterpret("int32", x * log2e + constant(rounder))
    n = bits - tirx.const(int(np.float32(rounder).view(np.int32)), "int32")  # not by subtracting: TVM would cancel it
    f = x * log2e - n.astype("float32")
    power = polynomial(
        f, 0.001327646430581808, 0.009675540961325169, 0.05550713464617729, 0.24022120237350464, 0.693146944, 1.00000012
    )
    exponent = bits << tirx.const(23, "int32")
    return tirx.reinterpret("float32", tirx.reinterpret("int32", power) + exponent)


def sigmoid(x: Expr) -> Expr:
    return constant(1.0) / (constant(1.0) + exp(constant(0.0) - x))


def silu(x: Expr) -> Expr:
    return x / (constant(1.0) + exp(constant(0.0) - x))


def tanh(x: Expr) -> Expr:
    return constant(1.0) - constant(2.0) / (exp(x * constant(2.0)) + constant(1.0))


def erf(x: Expr) -> Expr:
    """x * P(x^2) / Q(x^2), a least-maximum fit on [-4, 4], beyond which erf is 1; absolute error about 4e-7."""
    x = clamp(x, -4.0, 4.0)
    t = x * x
    p = polynomial(
        t, 1.9213793223116227e-08, -1.9899146082025254e-06, 0.00015549419913440943, 0.0042918091639876366,
        0.05243006348609924, 0.21391941606998444, 1.1283786296844482,
    )  # fmt: skip
    q = polynomial(t, 0.0010976913617923856, 0.015548797324299812, 0.12078908830881119, 0.5229088068008423, 1.0)
    return x * p / q


def _log1p(f: Expr, *coefficients: float) -> Expr:
    """f * P(f), P a polynomial for log(1 + f) / f."""
    return f * polynomial(f, *coefficients)


def log(x: Expr) -> Expr:
    """n * ln 2 + log m with x = 2^n * m and m between the roots of 1/2 and 2; relative error about 2e-7.

    The polynomial is by interpolation at the Chebyshev points, of degree 9 (5e-9). Numbers under 1e-38 count as zero.
    """
    bits = tirx.reinterpret("int32", x)
    root = int(np.float32(0.5**0.5).view(np.int32))
    n = (bits - tirx.const(root, "int32")) >> tirx.const(23, "int32")
    m = tirx.reinterpret("float32", bits - (n << tirx.const(23, "int32")))
    part = _log1p(
        m - constant(1.0), -0.07451186329126358, 0.12806610763072968, -0.13266031444072723, 0.14199650287628174,
        -0.1660836935043335, 0.20000939071178436, -0.2500157952308655, 0.33333346247673035, -0.49999988079071045, 1.0,
    )  # fmt: skip
    finite = part + n.astype("float32") * constant(0.6931471805599453)
    at_the_end = tirx.Select(x >= constant(0.0), constant(-np.inf), constant(np.nan))
    return tirx.Select(x >= constant(SMALLEST), tirx.Select(x < constant(np.inf), finite, x), at_the_end)


def softplus(x: Expr) -> Expr:
    """relu(x) + log(1 + exp(-|x|)), by a polynomial of degree 9 found like that of log (5e-9)."""
    falling = exp(constant(0.0) - tirx.abs(x))
    return _maximum(x, constant(0.0)) + _log1p(
        falling, -0.0031760570127516985, 0.019542528316378593, -0.05637361481785774, 0.10543623566627502,
        -0.1526966691017151, 0.1966327428817749, -0.24951615929603577, 0.33329710364341736, -0.49999892711639404, 1.0,
    )  # fmt: skip


def mish(x: Expr) -> Expr:
    """x * tanh(softplus(x)), which is x * n / (n + 2) with n = e (e + 2) and e = exp(x)."""
    e = exp(_minimum(x, constant(20.0)))
    n = e * (e + constant(2.0))
    return x * (n / (n + constant(2.0)))


def hardsigmoid(x: Expr) -> Expr:
    return clamp(x + constant(3.0), 0.0, 6.0) * constant(1.0 / 6.0)


UNARY: dict[str, Callable[..., Expr]] = {
    "relu": lambda x: _maximum(x, constant(0.0)),
    "relu6": lambda x: clamp(x, 0.0, 6.0),
    "clamp": clamp,
    "hardswish": lambda x: x * hardsigmoid(x),
    "hardsigmoid": hardsigmoid,
    "sigmoid": sigmoid,
    "silu": silu,
    "gelu": lambda x: x * constant(0.5) * (constant(1.0) + erf(x * constant(0.7071067811865476))),
    "tanh": tanh,
    "leaky_relu": lambda x, slope: tirx.Select(x > constant(0.0), x, x * constant(slope)),
    "elu": lambda x, alpha: tirx.Select(x > constant(0.0), x, (exp(x) - constant(1.0)) * constant(alpha)),
    "softplus": softplus,
    "mish": mish,
    "exp": lambda x: tirx.Select(
        x > constant(-86.5), tirx.Select(x < constant(88.7228), exp(x), constant(np.inf)), constant(0.0)
    ),
    "log": log,
    "sqrt": tirx.sqrt,
    "reciprocal": lambda x: constant(1.0) / x,
    "absolute": tirx.abs,
}

BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "maximum": _maximum,
    "minimum": _minimum,
}
