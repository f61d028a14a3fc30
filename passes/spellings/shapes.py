"""Shapes: changed, and asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.passes.spellings.batch import Moved, in_order, takes_moved
from perse_compile.passes.spellings.rules import (
    Node,
    Rule,
    Unsupported,
    dimension,
    is_call,
    is_node,
    of_module,
    pair,
    rank,
)
from perse_compile.shapes import BATCH

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


def reshape(e: Emitter, input: Node, *shape: Any) -> Node:
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    if any(is_node(size) for size in sizes):
        raise Unsupported("a shape computed from the image's content")
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(e.shape(input)) // max(known, 1)
    return reshape_to(e, input, tuple(sizes))


def reshape_to(e: Emitter, x: Node, shape: tuple[int, ...]) -> Node:
    """To a shape with the batch. Two reshapes are one; none if nothing changes; a shuffle is an operation."""
    if math.prod(shape) != math.prod(e.shape(x)):
        raise Unsupported(f"cannot make {shape[1:]} of {e.shape(x)[1:]}")
    if not shape or not shape[0] or shape[0] % BATCH:
        raise Unsupported(
            "mixes the batch with other dimensions; keep the batch as dimension 0 (view(x.size(0), ...), flatten(1))"
        )
    source: Any = x.args[0] if x.args else None
    if is_call(x, "reshape"):
        return reshape_to(e, source, shape)
    if is_call(x, "permute") and x.args[1] == (0, 2, 1, 3, 4) and is_call(source, "reshape"):
        whole, groups = source.args[0], e.shape(source)[1]
        if e.shape(whole) == shape and shape[0] == BATCH and e.shape(source)[3:] == shape[2:]:
            return e("channel_shuffle", whole, groups)
    return x if e.shape(x) == shape else e.reshape(x, shape)


def reshape_as(e: Emitter, input: Node, other: Node) -> Node:
    return reshape_to(e, input, e.shape(other))


def flatten(e: Emitter, input: Node, start_dim: int = 0, end_dim: int = -1) -> Node:
    shape = e.shape(input)
    start, end = start_dim % len(shape), end_dim % len(shape)
    return reshape_to(e, input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def unflatten(e: Emitter, input: Node, dim: int, sizes: Any) -> Node:
    shape, dim = e.shape(input), dimension(e, input, dim)
    return reshape(e, input, (*shape[:dim], *sizes, *shape[dim + 1 :]))


def squeeze(e: Emitter, input: Node, dim: Any = None) -> Node:
    shape = e.shape(input)
    dims = (
        range(1, len(shape))
        if dim is None
        else [dimension(e, input, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    )
    return reshape_to(e, input, tuple(s for i, s in enumerate(shape) if i not in dims or s != 1))


def unsqueeze(e: Emitter, input: Node, dim: int) -> Node:
    shape = list(e.shape(input))
    shape.insert(dim + len(shape) + 1 if dim < 0 else dim, 1)
    return reshape_to(e, input, tuple(shape))


@takes_moved
def permute(e: Emitter, input: Node | Moved, *axes: Any, dims: Any = ()) -> Node | Moved:
    wanted = axes or (dims,)
    order = [d % rank(e, input) for d in (wanted[0] if isinstance(wanted[0], (tuple, list)) else wanted)]
    if isinstance(input, Moved):
        return in_order(e, input.node, [input.order[d] for d in order])
    return in_order(e, input, order)


@takes_moved
def transpose(e: Emitter, input: Any, dim0: int, dim1: int) -> Any:
    order = list(range(rank(e, input)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute(e, input, order)


@takes_moved
def movedim(e: Emitter, input: Any, source: Any, destination: Any) -> Any:
    moved, to = ([d % rank(e, input) for d in ((x,) if isinstance(x, int) else x)] for x in (source, destination))
    order = [d for d in range(rank(e, input)) if d not in moved]
    for dim, place in sorted(zip(moved, to, strict=True), key=lambda pair: pair[1]):
        order.insert(place, dim)
    return permute(e, input, order)


def an_image(e: Emitter, x: Node) -> tuple[int, ...]:
    """Its size (N, C, H, W)."""
    if rank(e, x) != 4:
        raise Unsupported(f"of {e.shape(x)[1:]}, which is no image (channels, height, width)")
    return e.shape(x)


def pixel_shuffle(e: Emitter, input: Node, upscale_factor: int) -> Node:
    _, channels, height, width = an_image(e, input)
    r = int(upscale_factor)
    parts = e("reshape", input, (channels // r**2, r, r, height, width), suffix="parts")
    return e(
        "reshape", e("permute", parts, (0, 1, 4, 2, 5, 3), suffix="moved"), (channels // r**2, height * r, width * r)
    )


def pixel_unshuffle(e: Emitter, input: Node, downscale_factor: int) -> Node:
    _, channels, height, width = an_image(e, input)
    r = int(downscale_factor)
    parts = e("reshape", input, (channels, height // r, r, width // r, r), suffix="parts")
    return e(
        "reshape", e("permute", parts, (0, 1, 3, 5, 2, 4), suffix="moved"), (channels * r**2, height // r, width // r)
    )


def interpolate(
    e: Emitter, input: Node, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: Any = None, recompute_scale_factor: Any = None, antialias: bool = False,
) -> Node:  # fmt: skip
    """By whole factors of pixels that are repeated or left out; else each row and column is a sum of others."""
    own = an_image(e, input)[2:]
    if size is None:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
        size = [n * factor for n, factor in zip(own, factors, strict=True)]
        if any(n != int(n) for n in size) and not recompute_scale_factor:
            raise Unsupported(f"from {own} by {scale_factor}: that is not a whole number of pixels")
    wanted = pair([int(n) for n in size] if isinstance(size, (tuple, list)) else size)
    if wanted == own:
        return input
    if mode == "nearest" and not (own[0] % wanted[0] or own[1] % wanted[1]):
        step = own[0] // wanted[0], own[1] // wanted[1]
        return e("max_pool2d", input, (1, 1), step, (0, 0), (1, 1), False)
    if mode in ("nearest", "nearest-exact") and not (wanted[0] % own[0] or wanted[1] % own[1]):
        return e("upsample", input, (wanted[0] // own[0], wanted[1] // own[1]))
    for after, (now, then) in enumerate(zip(own, wanted, strict=True), 2):
        if now != then:
            lines = torch.eye(now)[None, None]
            sums = F.interpolate(lines, (now, then), None, mode, align_corners, antialias=antialias)[0, 0]
            input = weighted_sums(e, input, after, sums.T.contiguous(), "height" if after == 2 else "width")
    return input


def weighted_sums(e: Emitter, x: Node, dim: int, weights: Tensor, name: str) -> Node:
    """Along one dimension of an image; weights are (new size, old size)."""
    weights = e.name_tensor(weights, name)
    if dim == 3:
        return e("linear", x, weights, None)
    turned = e("permute", x, (0, 1, 3, 2), suffix="turned")
    return e("permute", e("linear", turned, weights, None, suffix=name), (0, 1, 3, 2))


def channel_shuffle(e: Emitter, input: Node, groups: int) -> Node:
    return e("channel_shuffle", input, int(groups))


@takes_moved
def size(e: Emitter, input: Any, dim: int | None = None) -> Any:
    return e.shape(input) if dim is None else e.shape(input)[dim]


@takes_moved
def attribute(e: Emitter, input: Any, name: str) -> Any:
    if not is_node(input) and not isinstance(input, Moved):
        return getattr(input, name)
    if name == "data":
        return input
    if name == "mT":
        return transpose(e, input, -2, -1)
    known = {
        "shape": e.shape(input),
        "ndim": rank(e, input),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "is_cuda": False,
        "requires_grad": False,
    }
    if name not in known:
        raise Unsupported(f"attribute {name!r} of a tensor")
    return known[name]


MODULES: dict[type[nn.Module], Rule] = {
    nn.Flatten: of_module(flatten, "start_dim", "end_dim"),
    nn.Unflatten: of_module(unflatten, "dim", "unflattened_size"),
    nn.ChannelShuffle: of_module(channel_shuffle, "groups"),
    nn.PixelShuffle: of_module(pixel_shuffle, "upscale_factor"),
    nn.PixelUnshuffle: of_module(pixel_unshuffle, "downscale_factor"),
    nn.Upsample: of_module(interpolate, "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    nn.UpsamplingBilinear2d: of_module(interpolate, "size", "scale_factor", "mode", "align_corners"),
    nn.UpsamplingNearest2d: of_module(interpolate, "size", "scale_factor"),
}  # fmt: skip

METHODS: dict[str, Rule] = {
    "view": reshape, "reshape": reshape, "view_as": reshape_as, "reshape_as": reshape_as, "flatten": flatten,
    "unflatten": unflatten, "squeeze": squeeze, "unsqueeze": unsqueeze, "permute": permute, "transpose": transpose,
    "size": size, "dim": rank, "swapaxes": transpose, "swapdims": transpose, "movedim": movedim,
}  # fmt: skip

FUNCTIONS: dict[Any, Rule] = {
    torch.reshape: reshape, torch.flatten: flatten, torch.unflatten: unflatten, torch.squeeze: squeeze,
    torch.unsqueeze: unsqueeze, torch.permute: permute, torch.transpose: transpose,
    F.channel_shuffle: channel_shuffle, torch.channel_shuffle: channel_shuffle, getattr: attribute,
    torch.swapaxes: transpose, torch.swapdims: transpose, torch.movedim: movedim, F.interpolate: interpolate,
    F.pixel_shuffle: pixel_shuffle, F.pixel_unshuffle: pixel_unshuffle,
}  # fmt: skip
