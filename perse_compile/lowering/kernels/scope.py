"""A kernel in the making: what it reads, what it has computed so far, how it will be scheduled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx
from tvm import te, tirx

from perse_compile.errors import LoweringError
from perse_compile.lowering.values import Constant, Value
from perse_compile.targets import Target

Scheduler = Callable[[tirx.PrimFunc], tirx.PrimFunc]
Array = NDArray[np.float32]


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of an operation, whose kinds perse_compile.ops fixes."""
    return node.args


@dataclass(frozen=True)
class Stored:
    """A value in memory: under which name, and how it is laid out. Two may share a name (views)."""

    name: str
    shape: tuple[int, ...]  # physical
    order: tuple[int, ...]
    dtype: str = "float32"

    def as_value(self, shape: tuple[int, ...] | None = None) -> Value:
        return Value(te.placeholder(shape or self.shape, name=identifier(self.name)), self.order)


@dataclass
class KernelCall:
    """One kernel and what it reads and writes; shapes are those the kernel declares."""

    hint: str  # what the kernel is called after
    func: tirx.PrimFunc
    schedule: Scheduler
    inputs: list[tuple[str, tuple[int, ...]] | Constant]
    output: str
    shape: tuple[int, ...]


@dataclass
class Scope:
    """One kernel in the making."""

    values: dict[str, Stored]
    weights: Callable[[fx.Node], Array]
    target: Target
    rows: tuple[int, int] | None = None  # (H, W) when the kernel sees (1,H,W,C) as (1,1,H*W,C)
    inputs: list[tuple[te.Tensor, tuple[str, tuple[int, ...]] | Constant]] = field(default_factory=list)
    inner: dict[fx.Node, Value] = field(default_factory=dict)
    schedule: Scheduler | None = None

    def read(self, node: fx.Node) -> Value:
        if node in self.inner:
            return self.inner[node]
        stored = self.values[node.name]
        return self.place(stored, self._seen(stored.shape))

    def place(self, stored: Stored, shape: tuple[int, ...]) -> Value:
        value = stored.as_value(shape)
        self.inputs.append((value.tensor, (stored.name, shape)))
        return value

    def constant(self, name: str, array: Array) -> te.Tensor:
        tensor = te.placeholder(array.shape, name=identifier(name))
        self.inputs.append((tensor, Constant(name, np.ascontiguousarray(array, dtype=np.float32))))
        return tensor

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.rows is None:
            return shape
        if math.prod(shape[:-1]) == math.prod(self.rows):
            return (1, 1, math.prod(self.rows), shape[-1])
        if math.prod(shape[:-1]) == 1:
            return (1, 1, 1, shape[-1])
        raise LoweringError(f"cannot see {shape} as rows of {self.rows}")


def identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
