"""A kernel in the making: what it reads, what it has computed so far, how it will be scheduled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx
from tvm import te, tirx

from perse_compile.errors import LoweringError
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.strided import Strides, with_strides
from perse_compile.lowering.values import Constant, Value, transposed
from perse_compile.targets import Target

Scheduler = Callable[[tirx.PrimFunc], tirx.PrimFunc]
Array = NDArray[np.float32]
Scales = Mapping[fx.Node, tuple[fx.Node, fx.Node]]  # node -> (image, scale), as scaling.py finds them


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
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)  # zeros above, below, left and right of an image

    @property
    def one_row(self) -> bool:
        """Whether the pixels of an image follow each other at one distance from first to last."""
        _, height, width, channels = self.shape
        return self.strides is None or self.strides.seen_as(self.shape, (1, 1, height * width, channels)) is not None

    @property
    def memory(self) -> tuple[int, ...]:
        """Shape of the buffer that holds it."""
        return self.shape if self.strides is None else (self.strides.size,)

    def as_value(self, shape: tuple[int, ...] | None = None) -> Value:
        return Value(te.placeholder(shape or self.shape, name=identifier(self.name)), self.order)


@dataclass(frozen=True)
class Part:
    """Some channels of an image, from `first` on."""

    image: Stored
    first: int
    channels: int

    def stored(self) -> Stored:
        """How it lies in memory."""
        *pixels, channels = self.image.shape
        strides = self.image.strides or _dense(self.image.shape)
        if self.channels == channels:
            return self.image
        strides = replace(strides, offset=strides.offset + self.first)
        return replace(self.image, shape=(*pixels, self.channels), strides=strides)


@dataclass
class KernelCall:
    """One kernel and what it reads and writes; shapes are the kernel's, or of buffers around them."""

    hint: str  # what the kernel is called after
    func: tirx.PrimFunc
    schedule: Scheduler
    inputs: list[tuple[str, tuple[int, ...]] | Constant]
    output: str
    shape: tuple[int, ...]
    continues: bool = False  # writes into an output that an earlier kernel began
    sums: tuple[str, tuple[int, ...]] | None = None  # of the output's rows, written too; the last argument but one


@dataclass
class Scope:
    """One kernel in the making."""

    values: dict[str, Stored]
    weights: Callable[[fx.Node], Array]
    choices: Choices
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)  # wanted around the result
    part: Part | None = None  # of an image, which the result has to be
    rows: tuple[int, int] | None = None  # (P, H*W/P) when the kernel sees (1,H,W,C) as (1,P,H*W/P,C)
    scales: Scales = field(default_factory=dict)  # inputs of convolutions that are scaled in the weights
    sums_rows: bool = False  # whether the schedule can add up the rows of the result; set with it
    reads: list[Stored] = field(default_factory=list)  # values from outside
    unfolded: dict[int, tuple[int, int]] = field(default_factory=dict)  # (H, W) of inputs with gaps between those rows
    inputs: list[tuple[te.Tensor, tuple[str, tuple[int, ...]] | Constant]] = field(default_factory=list)
    inner: dict[fx.Node, Value] = field(default_factory=dict)
    strided: dict[int, Strides] = field(default_factory=dict)  # by position in `inputs`
    before: list[KernelCall] = field(default_factory=list)  # kernels that must run first
    schedule: Scheduler | None = None
    attributes: dict[str, Any] = field(default_factory=dict)  # what reports say of the kernel: "macs", "what"

    @property
    def target(self) -> Target:
        return self.choices.target

    def read(self, node: fx.Node) -> Value:
        if node in self.inner:
            return self.inner[node]
        stored = self.values[node.name]
        return self.place(stored, self._seen(stored.shape))

    def has_gaps(self, height: int, width: int) -> bool:
        """Whether the result, or an image that the kernel reads, has something between its rows."""
        images = [s for s in self.reads if s.shape[1:3] == (height, width)]
        return any(self.margins) or any(not s.one_row for s in images)

    def describe(self, macs: int, what: str) -> None:
        """For those who measure: multiply-accumulates, and a few words."""
        self.attributes = {"macs": macs, "what": what}

    def place(self, stored: Stored, shape: tuple[int, ...]) -> Value:
        value = stored.as_value(shape)
        if stored.strides is None:
            self.inputs.append((value.tensor, (stored.name, shape)))
            return value
        strides = stored.strides.seen_as(stored.shape, shape)
        if strides is None and self.rows is not None and len(shape) == len(stored.shape) == 4:
            _, height, width, _ = stored.shape
            self.unfolded[len(self.inputs)] = height, width
            strides = stored.strides
        elif strides is None:
            return self.place(self.compact(stored), shape)
        self.strided[len(self.inputs)] = strides
        self.inputs.append((value.tensor, (stored.name, stored.memory)))
        return value

    def compact(self, stored: Stored) -> Stored:
        """A copy without gaps, made before this kernel."""
        result = Stored(f"{stored.name}.compact", stored.shape, stored.order)
        self.before.append(copy(stored, result, self.target))
        return result

    def constant(self, name: str, array: Array) -> te.Tensor:
        tensor = te.placeholder(array.shape, name=identifier(name))
        self.inputs.append((tensor, Constant(name, np.ascontiguousarray(array, dtype=np.float32))))
        return tensor

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.rows is None:
            return shape
        if math.prod(shape[:-1]) == math.prod(self.rows):
            return (1, *self.rows, shape[-1])
        if math.prod(shape[:-1]) == 1:
            return (1, 1, 1, shape[-1])
        raise LoweringError(f"cannot see {shape} as rows of {self.rows}")


def copy(source: Stored, result: Stored, target: Target, continues: bool = False) -> KernelCall:
    """A kernel that writes the same tensor where `result` lies."""
    value = source.as_value()
    data = transposed(value, result.order).tensor
    copied = te.compute(result.shape, lambda *i: data(*i) * tirx.const(1.0, "float32"), name="copy")
    strides = {i: each.strides for i, each in enumerate((source, result)) if each.strides is not None}
    func = with_strides(te.create_prim_func([value.tensor, copied]), strides)
    schedule = partial(elementwise.schedule, target=target)
    return KernelCall(
        "copy", func, schedule, [(source.name, source.memory)], result.name, result.memory, continues=continues
    )


def _dense(shape: tuple[int, ...]) -> Strides:
    _, height, width, channels = shape
    size = height * width * channels
    return Strides((size, width * channels, channels, 1), size)


def identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
