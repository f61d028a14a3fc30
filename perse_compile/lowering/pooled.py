"""Pooling in its producer: the kernel that makes an image also adds up its rows, while they are in the cache.

A mean over a whole image, or over the few windows of an exit's features, then reads those sums, not the image.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx

from perse_compile.lowering.fuse import op_of
from perse_compile.lowering.schedules.rows import SUMS


def find_summed(nodes: Collection[fx.Node], kept: Collection[fx.Node]) -> dict[fx.Node, int]:
    """Images whose means somebody takes, here or, of those `kept`, as features: into how many pieces a row is cut.

    Given:  x = conv2d(..); s = mean(x, (2, 3))
    Result: x and sums of its rows from one kernel; s = sum of those / pixels
    """
    found = {}
    for node in nodes:
        readers = [user for user in node.users if user in nodes or (node in kept and op_of(user) == "pool_features")]
        if grids := [grid for grid in map(windows_of_mean, readers) if grid]:
            found[node] = max(grids)
    return found


def windows_of_mean(node: fx.Node) -> int:
    """Into how many equal windows each way the node divides an image to take their means; 0 if it does not."""
    source = node.args[0] if len(node.args) > 1 else None
    if node.op != "call_function" or not isinstance(source, fx.Node) or len(source.meta["shape"]) != 3:
        return 0
    into: Any = node.args[1]
    if op_of(node) == "mean" and sorted(into) == [2, 3]:
        high, wide = 1, 1
    elif op_of(node) in ("adaptive_avg_pool2d", "pool_features"):
        high, wide = into if isinstance(into, tuple) else (into, into)
    else:
        return 0
    _, height, width = source.meta["shape"]
    even = high == wide and height % high == width % high == 0
    return high if even and 2 * high <= min(height, width) else 0


def sums_of(node: fx.Node) -> str:
    """Under which name the sums of an image's rows are stored."""
    return f"{node.name}.{SUMS}"
