"""Tensors that lie inside a larger buffer: rows with a margin around them, a few channels of many."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx

MARGINS = "margins"  # attribute of a kernel that has to write zeros around its result; see kernels/margins.py


@dataclass(frozen=True)
class Strides:
    """Where element [i, j, ...] of a tensor lies: at offset + i*steps[0] + j*steps[1] + ... of `size` elements."""

    steps: tuple[int, ...]
    size: int
    offset: int = 0

    def seen_as(self, shape: tuple[int, ...], view: tuple[int, ...]) -> Strides | None:
        """The strides of the same elements under another shape; None where no strides do that.

        Only dimensions of size 1 come and go, and neighbours merge.
        """
        runs = [(size, step) for size, step in zip(shape, self.steps, strict=True) if size > 1]
        steps: list[int] = []
        for size in reversed(view):
            if size == 1:
                steps.append(self.size)  # TVM takes the first for the size of the whole buffer
                continue
            if not runs:
                return None
            length, step = runs.pop()
            while length < size and runs and runs[-1][1] == length * step:
                length *= runs.pop()[0]
            if length != size:
                return None
            steps.append(step)
        return None if runs else Strides(tuple(reversed(steps)), self.size, self.offset)


def unfold_rows(func: tirx.PrimFunc, shapes: Mapping[int, tuple[int, int]]) -> tirx.PrimFunc:
    """The same function with some parameters (by position) of shape (1,P,L,C) as images (1,H,W,C), P*L = H*W.

    So a kernel can count pixels from first to last though something lies between the rows of an image.
    """
    sch = s_tir.Schedule(func)
    for position, (height, width) in shapes.items():
        buffer = sch.mod["main"].params[position]
        parts, length = (int(size) for size in buffer.shape[1:3])
        assert parts * length == height * width, (buffer.shape, height, width)
        sch.transform_layout(*_access(sch, buffer), _unfolding(length, width))
    return sch.mod["main"]


def _unfolding(length: int, width: int) -> Callable[..., tuple[Any, ...]]:
    return lambda n, p, i, c: (n, (p * length + i) // width, (p * length + i) % width, c)


def _access(sch: s_tir.Schedule, buffer: tirx.Buffer) -> tuple[Any, tuple[str, int]]:
    """Some block that reads or writes the buffer, and where among what it reads or writes."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        for kind, regions in (("read", sch.get(block).reads), ("write", sch.get(block).writes)):
            for number, region in enumerate(regions):
                if region.source.same_as(buffer):
                    return block, (kind, number)
    raise AssertionError(f"nothing reads or writes {buffer.name}")


def with_strides(func: tirx.PrimFunc, strides: Mapping[int, Strides]) -> tirx.PrimFunc:
    """The same function with some parameters (by position) strided. To be applied before scheduling.

    TVM has strided buffers but no way to give them to a PrimFunc made from tensor expressions. A buffer's type says
    how it lies, and all uses refer to the parameter: so the types are exchanged in TVM's JSON of the function.
    """
    if not strides:
        return func
    graph = json.loads(tvm.ir.save_json(func))
    nodes: list[dict[str, Any]] = graph["nodes"]
    parameters = nodes[nodes[graph["root_index"]]["data"]["params"]]["data"]
    for position, lies in strides.items():
        variable = nodes[parameters[position]]["data"]
        kind = nodes[variable["ty"]]
        index = nodes[nodes[kind["data"]["shape"]]["data"][0]]["data"]["ty"]
        steps = _add(nodes, "ffi.Array", [_number(nodes, step, index) for step in lies.steps])
        changed = {"strides": steps, "elem_offset": _number(nodes, lies.offset, index)}
        variable["ty"] = _add(nodes, kind["type"], {**kind["data"], **changed})
    return tvm.ir.load_json(json.dumps(graph))


def _add(nodes: list[dict[str, Any]], kind: str, data: object) -> int:
    """A node at the end; gives its number."""
    nodes.append({"type": kind, "data": data})
    return len(nodes) - 1


def _number(nodes: list[dict[str, Any]], value: int, kind: int) -> int:
    return _add(nodes, "ir.IntImm", {"span": 0, "ty": kind, "value": _add(nodes, "int", value)})
