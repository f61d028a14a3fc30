"""Squeeze-and-excite: channels scaled in the weights of the 1x1 convolution that reads them, which are fewer."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from perse_compile.lowering.fuse import op_of


def find_scaled(nodes: list[fx.Node], kept: Collection[fx.Node]) -> dict[fx.Node, tuple[fx.Node, fx.Node]]:
    """Products that need no kernel: node -> (image, scale).

    Given:  y = mul(x, s); z = conv2d(y, w)    s has one value a channel, w is 1x1 and smaller than x
    Result: z = conv2d(x, w * s)
    """
    found = {}
    for node in nodes:
        sides = _image_and_scale(node)
        if sides is not None and node not in kept and len(node.users) == 1 and _pays(next(iter(node.users)), node):
            found[node] = sides
    return found


def _image_and_scale(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    if node.op != "call_function" or op_of(node) != "mul":
        return None
    for image, scale in (node.args, node.args[::-1]):
        if not isinstance(image, fx.Node) or not isinstance(scale, fx.Node) or scale.op == "get_attr":
            continue
        shape = node.meta["shape"]
        if len(shape) == 3 and image.meta["shape"] == shape and scale.meta["shape"] == (shape[0], 1, 1) != shape:
            return image, scale
    return None


def _pays(user: fx.Node, node: fx.Node) -> bool:
    if user.op != "call_function" or op_of(user) != "conv2d" or user.args[0] is not node:
        return False
    out_channels, _, *kernel = user.args[1].meta["shape"]  # type: ignore[union-attr]
    _, height, width = node.meta["shape"]
    plain = kernel == [1, 1] and user.args[4] == (0, 0) and user.args[6] == 1
    return bool(plain and out_channels < height * width)
