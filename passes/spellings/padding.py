"""Padding, by a number and by the image itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional as F

from perse_compile.passes.spellings.parts import take
from perse_compile.passes.spellings.rules import Node, Rule, Unsupported
from perse_compile.passes.spellings.shapes import reshape_to
from perse_compile.shapes import BATCH

if TYPE_CHECKING:
    from perse_compile.passes.canonicalise import Emitter


def pad(e: Emitter, input: Node, pad: Any, mode: str = "constant", value: Any = None) -> Node:
    pads = [int(p) for p in pad]
    shape = e.shape(input)
    if len(pads) <= min(4, 2 * (len(shape) - 1)) and (len(shape) != 4 or shape[0] != BATCH):
        rows = (*(1,) * (3 - len(shape)), *shape[1:])[-2:]
        image = reshape_to(e, input, (BATCH, math.prod(shape) // BATCH // math.prod(rows), *rows))
        made = pad_image(e, image, pads, mode, value)
        _, _, height, width = e.shape(made)
        return reshape_to(e, made, (shape[0], width) if len(shape) == 2 else (*shape[:-2], height, width))
    if any(pads[6:]) or len(shape) != 4:
        raise Unsupported("pads other than channels, height and width")
    return pad_image(e, input, pads, mode, value)


def pad_image(e: Emitter, input: Node, pads: list[int], mode: str, value: Any) -> Node:
    if min(pads) < 0:
        input, pads = cropped(e, input, pads)
    if mode != "constant":
        if any(pads[4:]):
            raise Unsupported("pads other than height and width by the image itself")
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


def pad_module(e: Emitter, m: nn.ZeroPad2d, input: Node) -> Node:
    return pad(e, input, m.padding, "constant", m.value)


MODULES: dict[type[nn.Module], Rule] = {
    nn.ZeroPad2d: pad_module, nn.ConstantPad2d: pad_module, nn.ReflectionPad2d: padding_module("reflect"),
    nn.ReplicationPad2d: padding_module("replicate"), nn.CircularPad2d: padding_module("circular"),
}  # fmt: skip

FUNCTIONS: dict[Any, Rule] = {F.pad: pad}
