"""Element-wise functions as TIR expressions that LLVM can vectorise (no calls to libm)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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
}

BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}
