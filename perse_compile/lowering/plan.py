"""Plans: a Relax function as a straight line of kernel calls over offsets into one arena."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx

from perse_compile.errors import LoweringError

ALIGNMENT = 64
TRIES = 400  # of placing buffers in another order


@dataclass
class Buffer:
    """One tensor in the arena; `offset` is filled in by `place`."""

    size: int  # bytes
    first: int = -1  # step that writes it
    last: int = -1  # last step that reads it
    offset: int = -1


@dataclass(frozen=True)
class Argument:
    """What a kernel is given: a parameter of the function, or a buffer."""

    parameter: int | None = None
    buffer: Buffer | None = None


@dataclass
class Call:
    """One kernel call; the result comes last."""

    kernel: str
    arguments: list[Argument]


@dataclass
class Line:
    """One function as calls. `results` are where its outputs lie."""

    name: str
    parameters: list[int]  # bytes of each
    calls: list[Call]
    results: list[Argument]
    buffers: list[Buffer] = field(default_factory=list)


def read_line(module: tvm.IRModule, name: str, symbols: dict[str, str] | None = None) -> Line:
    """The calls of one straight-line Relax function; reshapes are the same memory.

    `symbols` gives the kernels' names in the object file where they differ from those in the module.
    """
    func = module[name]
    where: dict[Any, Any] = {p: Argument(parameter=i) for i, p in enumerate(func.params)}
    line = Line(name, [_bytes(p.ty) for p in func.params], [], [])
    for block in func.body.blocks:
        for binding in block.bindings:
            where[binding.var] = _bind(line, binding.value, where)
    if symbols:
        for call in line.calls:
            call.kernel = symbols[call.kernel]
    result = where.get(func.body.body) or _bind(line, func.body.body, where)
    line.results = _flat(result)
    return line


def _flat(result: Any) -> list[Argument]:
    return [argument for item in result for argument in _flat(item)] if isinstance(result, tuple) else [result]


def _bind(line: Line, value: Any, where: dict[Any, Any]) -> Any:
    if isinstance(value, relax.Var):
        return where[value]
    if isinstance(value, relax.Tuple):
        return tuple(_bind(line, item, where) for item in value.fields)
    if isinstance(value, relax.TupleGetItem):
        return _bind(line, value.tuple_value, where)[value.index]
    if isinstance(value, relax.Call) and value.op.name == "relax.reshape":
        return where[value.args[0]]
    if isinstance(value, relax.Call) and value.op.name == "relax.call_tir":
        kernel, arguments = value.args[0].name_hint, [_bind(line, a, where) for a in value.args[1].fields]
        types = value.ty_args[0]
        many = not hasattr(types, "shape")
        outputs = [Argument(buffer=Buffer(_bytes(ty))) for ty in (types.fields if many else [types])]
        line.buffers += [output.buffer for output in outputs if output.buffer]
        line.calls.append(Call(kernel, [*arguments, *outputs]))
        return tuple(outputs) if many else outputs[0]
    if isinstance(value, relax.Call) and value.op.name == "relax.call_tir_inplace":
        kernel, arguments = value.args[0].name_hint, [_bind(line, a, where) for a in value.args[1].fields]
        line.calls.append(Call(kernel, arguments))
        return arguments[-1]
    raise LoweringError(f"{line.name}: no plan for {value}")


def _bytes(ty: Any) -> int:
    return 4 * math.prod(int(size) for size in ty.shape)


def place(buffers: list[Buffer], least: int = 0) -> int:
    """Give each buffer an offset such that buffers alive together do not overlap; returns the arena's size in bytes.

    Greedy by size, lowest fitting offset (Pisarchyk and Lee, "Efficient memory management for deep neural net
    inference", 2020, greedy by size). Then, as long as the arena is larger than `least`, the most that is alive at
    once, other orders near the best one: the buffer that reaches highest moves forward, or two change places.
    """
    best_order = sorted(buffers, key=lambda b: (-b.size, b.first))
    best, offsets = _place_in(best_order), [b.offset for b in buffers]
    chance = random.Random(0)  # the same program must give the same bytes
    for _ in range(TRIES if len(buffers) > 1 else 0):
        if best <= least:
            break
        order = list(best_order)
        if chance.random() < 0.5:
            tops = {id(b): offset + b.size for b, offset in zip(buffers, offsets, strict=True)}
            highest = max(range(len(order)), key=lambda i: tops[id(order[i])])
            order.insert(chance.randrange(highest + 1), order.pop(highest))
        else:
            i, j = chance.randrange(len(order)), chance.randrange(len(order))
            order[i], order[j] = order[j], order[i]
        size = _place_in(order)
        if size <= best:
            best, best_order, offsets = size, order, [b.offset for b in buffers]
    for buffer, offset in zip(buffers, offsets, strict=True):
        buffer.offset = offset
    return best


def _place_in(order: list[Buffer]) -> int:
    placed: list[Buffer] = []
    for buffer in order:
        rivals = sorted(
            (b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=lambda b: b.offset
        )
        offset = 0
        for rival in rivals:
            if offset + buffer.size <= rival.offset:
                break
            offset = max(offset, _aligned(rival.offset + rival.size))
        buffer.offset = offset
        placed.append(buffer)
    return max((_aligned(b.offset + b.size) for b in order), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def prim_funcs(module: tvm.IRModule) -> dict[str, tirx.PrimFunc]:
    """The kernels of a module by name, sorted."""
    found = {v.name_hint: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    return dict(sorted(found.items()))
