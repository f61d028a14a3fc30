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
from perse_compile.lowering.strided import Strides
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
    strides: Strides | None = None  # where it is not contiguous

    @property
    def memory(self) -> tuple[int, ...]:
        """Shape of the buffer that holds it."""
        return self.shape if self.strides is None else (self.strides.size,)

    def as_value(self, shape: tuple[int, ...] | None = None) -> Value:
        return Value(te.placeholder(shape or self.shape, name=identifier(self.name)), self.order)


@dataclass
class KernelCall:
    """One kernel and what it reads and writes; shapes are the kernel's, or of buffers around them."""

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
    strided: dict[int, Strides] = field(default_factory=dict)  # by position in `inputs`
    before: list[KernelCall] = field(default_factory=list)  # kernels that must run first
    schedule: Scheduler | None = None
    attributes: dict[str, Any] = field(default_factory=dict)  # what reports say of the kernel: "macs", "what"

    def read(self, node: fx.Node) -> Value:
        if node in self.inner:
            return self.inner[node]
        stored = self.values[node.name]
        return self.place(stored, self._seen(stored.shape))

    def describe(self, macs: int, what: str) -> None:
        """For those who measure: multiply-accumulates, and a few words."""
        self.attributes = {"macs": macs, "what": what}

    def place(self, stored: Stored, shape: tuple[int, ...]) -> Value:
        value = stored.as_value(shape)
        if stored.strides is not None:
            strides = stored.strides.seen_as(stored.shape, shape)
            if strides is None:
                raise LoweringError(f"cannot see {stored.name}, {stored.shape} with gaps, as {shape}")
            self.strided[len(self.inputs)] = strides
        self.inputs.append((value.tensor, (stored.name, shape if stored.strides is None else stored.memory)))
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
