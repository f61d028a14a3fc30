"""Parts of a tensor: taken, joined, padded."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, dimension, is_node, rank
from perse_compile.passes.spellings.shapes import reshape_to

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


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


MODULES: dict[type[nn.Module], Rule] = {nn.ZeroPad2d: pad_module, nn.ConstantPad2d: pad_module}

METHODS: dict[str, Rule] = {"chunk": chunk, "split": split, "narrow": narrow, "select": select}

FUNCTIONS: dict[Any, Rule] = {
    operator.getitem: getitem, torch.chunk: chunk, torch.split: split, torch.narrow: narrow, torch.select: select,
    torch.cat: concat, torch.concat: concat, F.pad: pad,
}  # fmt: skip
