"""Parts of a tensor: taken, joined."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perse_compile.passes.spellings.arithmetic import add, stretched
from perse_compile.passes.spellings.batch import Moved, takes_moved, without
from perse_compile.passes.spellings.rules import Node, Rule, Unsupported, dimension, is_node, rank, without_its_batch
from perse_compile.passes.spellings.shapes import reshape_to, transpose, unsqueeze
from perse_compile.shapes import BATCH

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter

MOST_RANGES = 8  # of picked places that are joined one by one


@takes_moved
def getitem(e: Emitter, x: Any, index: Any) -> Any:
    if not is_node(x) and not isinstance(x, Moved):
        return x[index]
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (rank(e, x) - sum(i is not None for i in items) + 1)
    if isinstance(x, Moved):
        return of_moved(e, x, items)
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
        elif sum(isinstance(i, (Tensor, list, tuple)) for i in items) > 1:
            raise Unsupported("an index into several dimensions at once")
        else:
            x = picked(e, x, dimension(e, x, dim), numbers_of(item))
            shape.append(e.shape(x)[dim])
        dim += 1
    return reshape_to(e, x, (*shape, *e.shape(x)[dim:]))


def of_moved(e: Emitter, x: Moved, items: list[Any]) -> Any:
    if any(item is None for item in items):
        raise Unsupported("a new dimension before the batch is first again")
    own: list[Any] = [slice(None)] * len(x.order)
    for d, item in zip(x.order, items, strict=False):
        own[d] = item
    return without(e, x, getitem(e, x.node, tuple(own)), [d for d, item in enumerate(own) if isinstance(item, int)])


def take_slice(e: Emitter, x: Node, dim: int, item: slice) -> Node:
    start, stop, step = item.indices(e.shape(x)[dim])
    if step == 1:
        return take(e, x, dim, start, stop)
    if dim not in (2, 3) or rank(e, x) != 4 or e.shape(x)[0] != BATCH:
        return every(e, x, dimension(e, x, dim), start, stop, step)
    x = take(e, x, dim, start, stop)
    return e("max_pool2d", x, (1, 1), (step, 1) if dim == 2 else (1, step), (0, 0), (1, 1), False, suffix="every")


def every(e: Emitter, x: Node, dim: int, start: int, stop: int, step: int) -> Node:
    """Of channels and the like: the first of each of as many parts; and of what is left."""
    shape, whole = e.shape(x), (stop - start) // step
    if not whole:
        return take(e, x, dim, start, min(start + 1, stop))
    steps = reshape_to(e, take(e, x, dim, start, start + whole * step), (*shape[:dim], whole, step, *shape[dim + 1 :]))
    first = e("slice_dim", steps, dim + 1, 0, 1, suffix="every")
    first = reshape_to(e, first, (*shape[:dim], whole, *shape[dim + 1 :]))
    last = start + whole * step
    return first if last >= stop else e("concat", (first, take(e, x, dim, last, last + 1)), dim)


def picked(e: Emitter, x: Node, dim: int, places: Any) -> Node:
    """Known places of a dimension, in any order: a few ranges, or a product with a matrix of ones and zeros."""
    at, size = dimension(e, x, dim), e.shape(x)[dim]
    wanted = [int(i) % size for i in places]
    starts = [i for i, place in enumerate(wanted) if i == 0 or place != wanted[i - 1] + 1]
    if not wanted:
        raise Unsupported("an empty index")
    if len(starts) <= MOST_RANGES:
        ends = (*starts[1:], len(wanted))
        ranges = [take(e, x, at, wanted[a], wanted[a] + b - a) for a, b in zip(starts, ends, strict=True)]
        return ranges[0] if len(ranges) == 1 else e("concat", tuple(ranges), at)
    ones = e.name_tensor(torch.eye(size)[wanted], "places")
    return transpose(e, e("linear", transpose(e, x, at, -1), ones, None, suffix="picked"), at, -1)  # type: ignore[no-any-return]


def index_select(e: Emitter, input: Node, dim: int, index: Any) -> Node:
    return picked(e, input, dimension(e, input, dim), numbers_of(index))


def flip(e: Emitter, input: Node, *axes: Any, dims: Any = ()) -> Node:
    wanted = axes or (dims,)
    for dim in wanted[0] if isinstance(wanted[0], (tuple, list)) else wanted:
        at = dimension(e, input, dim)
        input = picked(e, input, at, range(e.shape(input)[at] - 1, -1, -1))
    return input


def numbers_of(index: Any) -> list[int]:
    """Of an index into one dimension that does not depend on the image."""
    if isinstance(index, Tensor) and index.dim() == 1:
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        return [int(i) for i in index]
    if isinstance(index, (list, tuple)) and index and all(type(i) is int for i in index):
        return list(index)
    raise Unsupported(f"index {index!r}; only numbers, slices and known places")


def take(e: Emitter, x: Node, dim: int, start: int, stop: int) -> Node:
    if (start, stop) == (0, e.shape(x)[dim]):
        return x
    if start >= stop:
        raise Unsupported("an empty slice")
    return e("slice_dim", x, dimension(e, x, dim), int(start), int(stop))


@takes_moved
def chunk(e: Emitter, input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    result: tuple[Any, ...] = split(e, input, -(-e.shape(input)[dim] // chunks), dim)
    return result


@takes_moved
def split(e: Emitter, input: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    dim = dim % rank(e, input) if isinstance(input, Moved) else dimension(e, input, dim)
    size, sections = e.shape(input)[dim], split_size_or_sections
    if isinstance(sections, int):
        sections = [min(sections, size - at) for at in range(0, size, sections)]
    starts = [sum(sections[:i]) for i in range(len(sections))]
    if isinstance(input, Moved):
        ranges = (slice(a, a + n) for a, n in zip(starts, sections, strict=True))
        return tuple(getitem(e, input, (*[slice(None)] * dim, part)) for part in ranges)
    return tuple(
        e("slice_dim", input, dim, a, a + n, suffix=str(i))
        for i, (a, n) in enumerate(zip(starts, sections, strict=True))
    )


def narrow(e: Emitter, input: Node, dim: int, start: int, length: int) -> Node:
    at = dimension(e, input, dim)
    start = int(start) % e.shape(input)[at]
    return take(e, input, at, start, start + length)


@takes_moved
def select(e: Emitter, input: Any, dim: int, index: int) -> Any:
    at = dim % rank(e, input) if isinstance(input, Moved) else dimension(e, input, dim)
    return getitem(e, input, (slice(None),) * at + (index,))


def concat(e: Emitter, tensors: Any, dim: int = 0, axis: int | None = None) -> Node:
    tensors = [t for t in tensors if is_node(t) or t.dim() > 1 or t.numel()]
    nodes = [t for t in tensors if is_node(t)]
    at = dimension(e, nodes[0], dim if axis is None else axis)
    if len(nodes) < len(tensors):
        return join_constants(e, list(tensors), at)
    return tensors[0] if len(tensors) == 1 else e("concat", tuple(tensors), at)


def join_constants(e: Emitter, tensors: list[Any], dim: int) -> Node:
    """Constants before or after what depends on the image (no shortcut's weights, coordinates): padded, and added."""
    first = next(i for i, t in enumerate(tensors) if is_node(t))
    last = len(tensors) - next(i for i, t in enumerate(reversed(tensors)) if is_node(t))
    inside = tensors[first:last]
    if not all(map(is_node, inside)):
        raise Unsupported("joins a constant between two tensors")
    whole = inside[0] if len(inside) == 1 else e("concat", tuple(inside), dim, suffix="inside")
    left, right = ([t.detach().float() for t in side if t.numel()] for side in (tensors[:first], tensors[last:]))
    numbers = {number for t in (*left, *right) for number in t.flatten().tolist()}
    before, after = (sum(t.shape[dim] for t in side) for side in (left, right))
    if len(numbers) <= 1:  # none at all where the constants are of no size
        return pad_dimension(e, whole, dim, before, after, numbers.pop() if numbers else 0.0)
    own = torch.zeros(1, *e.shape(whole)[1:])
    around = torch.cat([*left, own, *right], dim)
    return add(e, pad_dimension(e, whole, dim, before, after, 0.0), around)  # type: ignore[no-any-return]


def pad_dimension(e: Emitter, x: Node, dim: int, before: int, after: int, value: float) -> Node:
    if dim == 1 and rank(e, x) == 4 and e.shape(x)[0] == BATCH:
        return e("pad_channels", x, before, after, value)
    shape = e.shape(x)
    rows = reshape_to(e, x, (BATCH, math.prod(shape[:dim]) // BATCH, shape[dim], math.prod(shape[dim + 1 :])))
    made = e("pad", rows, (0, 0, before, after), value, suffix="padded")
    return reshape_to(e, made, (*shape[:dim], before + shape[dim] + after, *shape[dim + 1 :]))


def stack(e: Emitter, tensors: Any, dim: int = 0) -> Node | Moved:
    first = next(t for t in tensors if is_node(t))
    at = dim + rank(e, first) + 1 if dim < 0 else dim
    if at == 0:
        return Moved(stack(e, tensors, 1), (1, 0, *range(2, rank(e, first) + 1)))  # type: ignore[arg-type]
    return concat(e, [unsqueeze(e, t, at) if is_node(t) else t.unsqueeze(at) for t in tensors], at)


def repeat(e: Emitter, input: Node, *sizes: Any) -> Node:
    times = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if len(times) != rank(e, input) or times[0] != 1:
        raise Unsupported("repeats the batch, or adds dimensions")
    for dim, count in enumerate(times):
        input = input if count == 1 else e("concat", (input,) * int(count), dim, suffix="repeated")
    return input


def repeat_interleave(e: Emitter, input: Node, repeats: int, dim: int | None = None, output_size: Any = None) -> Node:
    """Of the batch: each image becomes so many parts."""
    if not isinstance(repeats, int) or dim is None:
        raise Unsupported("other than one number of times along one dimension")
    shape = e.shape(input)
    at = dim % len(shape)
    more = stretched(e, unsqueeze(e, input, at + 1), (*shape[: at + 1], repeats, *shape[at + 1 :]))
    return reshape_to(e, more, (*shape[:at], shape[at] * repeats, *shape[at + 1 :]))


def tile(e: Emitter, input: Node, *times: Any, dims: Any = ()) -> Node:
    times = times or tuple(dims)
    counts = times[0] if len(times) == 1 and isinstance(times[0], (tuple, list)) else times
    return repeat(e, input, *(1,) * (rank(e, input) - len(counts)), *counts)


@takes_moved
def unbind(e: Emitter, input: Any, dim: int = 0) -> tuple[Any, ...]:
    return tuple(select(e, input, dim, i) for i in range(e.shape(input)[dim]))


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


METHODS: dict[str, Rule] = {
    "chunk": chunk, "split": split, "narrow": narrow, "select": select, "repeat": repeat, "tile": tile,
    "unbind": unbind, "roll": roll, "new_zeros": new_filled(0.0), "new_ones": new_filled(1.0),
    "index_select": index_select, "flip": flip, "repeat_interleave": repeat_interleave,
}  # fmt: skip

FUNCTIONS: dict[Any, Rule] = {
    operator.getitem: getitem, torch.chunk: chunk, torch.split: split, torch.narrow: narrow, torch.select: select,
    torch.cat: concat, torch.concat: concat, torch.stack: stack, torch.unbind: unbind, torch.roll: roll,
    torch.tile: tile, torch.zeros_like: filled(0.0), torch.ones_like: filled(1.0),
    torch.index_select: index_select, torch.flip: flip, torch.repeat_interleave: repeat_interleave,
}  # fmt: skip
