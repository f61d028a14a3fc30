"""Parts of a tensor: taken, joined, padded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, dimension, is_node, rank, without_its_batch
from perse_compile.passes.spellings.shapes import reshape_to, unsqueeze

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
    if step < 1 or dim not in (2, 3) or rank(e, x) != 4:
        return every(e, x, dimension(e, x, dim), start, stop, step)
    x = take(e, x, dim, start, stop)
    return e("max_pool2d", x, (1, 1), (step, 1) if dim == 2 else (1, step), (0, 0), (1, 1), False, suffix="every")


def every(e: Emitter, x: Node, dim: int, start: int, stop: int, step: int) -> Node:
    """Of channels and the like: the first of each of as many parts."""
    if step < 1 or (stop - start) % step:
        raise Unsupported(
            f"a slice with a step that does not divide its {stop - start}, other than of height and width"
        )
    x = take(e, x, dim, start, stop)
    shape = e.shape(x)
    parts = e("reshape", x, (*shape[1:dim], shape[dim] // step, step, *shape[dim + 1 :]), suffix="parts")
    first = e("slice_dim", parts, dim + 1, 0, 1, suffix="every")
    return reshape_to(e, first, (*shape[:dim], shape[dim] // step, *shape[dim + 1 :]))


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
    at = dimension(e, input, dim)
    start = int(start) % e.shape(input)[at]
    return take(e, input, at, start, start + length)


def select(e: Emitter, input: Node, dim: int, index: int) -> Any:
    return getitem(e, input, (slice(None),) * dimension(e, input, dim) + (index,))


def concat(e: Emitter, tensors: Any, dim: int = 0, axis: int | None = None) -> Node:
    tensors = [t for t in tensors if is_node(t) or t.dim() > 1 or t.numel()]
    nodes = [t for t in tensors if is_node(t)]
    at = dimension(e, nodes[0], dim if axis is None else axis)
    if len(nodes) < len(tensors):
        return join_constants(e, list(tensors), at)
    return tensors[0] if len(tensors) == 1 else e("concat", tuple(tensors), at)


def join_constants(e: Emitter, tensors: list[Any], dim: int) -> Node:
    """Channels of one number before or after those of an image, as in a shortcut without weights."""
    first = next(i for i, t in enumerate(tensors) if is_node(t))
    last = len(tensors) - next(i for i, t in enumerate(reversed(tensors)) if is_node(t))
    around = [t for t in (*tensors[:first], *tensors[last:]) if not is_node(t)]
    numbers = {float(t.flatten()[0]) for t in around if t.numel()}
    same = all(bool((t == t.flatten()[0]).all()) for t in around if t.numel())
    inside = tensors[first:last]
    if not all(map(is_node, inside)) or dim != 1 or rank(e, inside[0]) != 4 or len(numbers) > 1 or not same:
        raise Unsupported("joins a constant to a tensor, other than channels of one number")
    image = inside[0] if len(inside) == 1 else e("concat", tuple(inside), 1, suffix="inside")
    before, after = (sum(t.shape[1] for t in side) for side in (tensors[:first], tensors[last:]))
    return e("pad_channels", image, before, after, numbers.pop() if numbers else 0.0)


def stack(e: Emitter, tensors: Any, dim: int = 0) -> Node:
    first = next(t for t in tensors if is_node(t))
    at = dim + rank(e, first) + 1 if dim < 0 else dim
    if at == 0:
        raise Unsupported("works across the batch; keep the batch as dimension 0")
    return concat(e, [unsqueeze(e, t, at) if is_node(t) else t.unsqueeze(at) for t in tensors], at)


def repeat(e: Emitter, input: Node, *sizes: Any) -> Node:
    times = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if len(times) != rank(e, input) or times[0] != 1:
        raise Unsupported("repeats the batch, or adds dimensions")
    for dim, count in enumerate(times):
        input = input if count == 1 else e("concat", (input,) * int(count), dim, suffix="repeated")
    return input


def tile(e: Emitter, input: Node, *times: Any, dims: Any = ()) -> Node:
    times = times or tuple(dims)
    counts = times[0] if len(times) == 1 and isinstance(times[0], (tuple, list)) else times
    return repeat(e, input, *(1,) * (rank(e, input) - len(counts)), *counts)


def unbind(e: Emitter, input: Node, dim: int = 0) -> tuple[Any, ...]:
    at = dimension(e, input, dim)
    return tuple(select(e, input, at, i) for i in range(e.shape(input)[at]))


def new_filled(value: float) -> Rule:
    """new_zeros and new_ones, as constants that broadcast along the batch."""

    def rule(e: Emitter, input: Node, *size: Any, dtype: Any = None, device: Any = None) -> Tensor:
        sizes = size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
        return torch.full(without_its_batch(tuple(sizes)), value)

    return rule


def filled(value: float) -> Callable[..., Tensor]:
    """zeros_like and ones_like: a constant, which broadcasts along the batch."""

    def rule(
        e: Emitter, input: Node, dtype: Any = None, layout: Any = None, device: Any = None, memory_format: Any = None
    ) -> Tensor:
        return torch.full((1, *e.shape(input)[1:]), value)

    return rule


def pad(e: Emitter, input: Node, pad: Any, mode: str = "constant", value: Any = None) -> Node:
    pads = [int(p) for p in pad]
    if any(pads[6:]) or rank(e, input) != 4:
        raise Unsupported("pads other than channels, height and width")
    if min(pads) < 0:
        input, pads = cropped(e, input, pads)
    if mode != "constant":
        return pad_by_image(e, input, pads, mode)
    left, right, top, bottom, before, after = [*pads, 0, 0, 0, 0, 0, 0][:6]
    if before or after:
        input = e("pad_channels", input, before, after, float(value or 0.0), suffix="channels")
    return e("pad", input, (left, right, top, bottom), float(value or 0.0)) if any(pads[:4]) else input


def cropped(e: Emitter, input: Node, pads: list[int]) -> tuple[Node, list[int]]:
    """What negative padding takes away, and the padding that is left."""
    for at, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim = 3 - at
        input = take(e, input, dim, max(0, -before), e.shape(input)[dim] - max(0, -after))
    return input, [max(0, p) for p in pads]


def pad_by_image(e: Emitter, input: Node, pads: list[int], mode: str) -> Node:
    left, right, top, bottom = [*pads, 0, 0][:4]
    return e("pad_by_image", input, (left, right, top, bottom), mode) if any(pads) else input


def padding_module(mode: str) -> Rule:
    def rule(e: Emitter, m: nn.ReflectionPad2d, input: Node) -> Node:
        return pad_by_image(e, input, list(m.padding), mode)

    return rule


def roll(e: Emitter, input: Node, shifts: Any, dims: Any = None) -> Node:
    pairs = zip(*(x if isinstance(x, (tuple, list)) else (x,) for x in (shifts, dims)), strict=True)
    for shift, dim in pairs:
        if dim is None:
            raise Unsupported("rolls the batch, too; give the dimensions")
        at = dimension(e, input, dim)
        size = e.shape(input)[at]
        first = size - shift % size
        if first < size:
            parts = (take(e, input, at, first, size), take(e, input, at, 0, first))
            input = e("concat", parts, at, suffix="rolled")
    return input


def pad_module(e: Emitter, m: nn.ZeroPad2d, input: Node) -> Node:
    return pad(e, input, m.padding, "constant", m.value)


MODULES: dict[type[nn.Module], Rule] = {
    nn.ZeroPad2d: pad_module, nn.ConstantPad2d: pad_module, nn.ReflectionPad2d: padding_module("reflect"),
    nn.ReplicationPad2d: padding_module("replicate"), nn.CircularPad2d: padding_module("circular"),
}  # fmt: skip

METHODS: dict[str, Rule] = {
    "chunk": chunk, "split": split, "narrow": narrow, "select": select, "repeat": repeat, "tile": tile,
    "unbind": unbind, "roll": roll, "new_zeros": new_filled(0.0), "new_ones": new_filled(1.0),
}  # fmt: skip

FUNCTIONS: dict[Any, Rule] = {
    operator.getitem: getitem, torch.chunk: chunk, torch.split: split, torch.narrow: narrow, torch.select: select,
    torch.cat: concat, torch.concat: concat, F.pad: pad, torch.stack: stack, torch.unbind: unbind, torch.roll: roll,
    torch.tile: tile, torch.zeros_like: filled(0.0), torch.ones_like: filled(1.0),
}  # fmt: skip
