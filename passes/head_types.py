"""What an exit's head reads of its tap, chosen by type and by bytes (docs/method.md).

    multiscale   means over a grid of 4x4 or 2x2 windows, one linear layer
    pooled       the mean of every channel, one linear layer
    bottleneck   means, a projection to a few numbers that stays as it is on the device, relu, one linear layer

The budget is what an answer reads: shift, scale, weight and bias of the head and, of a bottleneck, its projection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from perse_compile.errors import PassError
from perse_compile.macs import head_bytes, pack_bytes
from perse_compile.program import CutPoint, Exit

HEADS = ("auto", "pooled", "multiscale", "bottleneck")
WINDOWS = (4, 2)  # of multi-scale features, each way
MOST_FEATURES = 1024  # of windows that nobody asked for by name
WIDTHS = range(128, 0, -8)  # of a bottleneck
ENOUGH = 16  # width from which finer windows are worth more than more width (docs/method.md)
UNITS = {"": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class HeadWish:
    """What the user asks of every early exit's head."""

    kind: str = "auto"  # of HEADS
    budget: int | None = None  # bytes that an answer reads, at most


AUTO = HeadWish()


def parse_wish(kind: str, budget: str | None) -> HeadWish:
    """--head and --head-budget. Raises PassError."""
    if kind not in HEADS:
        raise PassError(f"--head {kind!r} is not {', '.join(HEADS[:-1])} or {HEADS[-1]}")
    if budget is None:
        return HeadWish(kind)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w*)", budget)
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise PassError(f"--head-budget {budget!r} is not a size; give the like of 400kB or 1MB")
    return HeadWish(kind, round(float(found[1]) * UNITS[found[2]]))


def make_exits(cuts: Sequence[CutPoint], outputs: int, wish: HeadWish) -> list[Exit]:
    """exit0, exit1, ... at the cuts, each with the richest head that fits. Raises PassError naming the least budget."""
    for cut in cuts:
        if not _shapes("", cut, wish.kind):
            sizes, kind = "x".join(map(str, cut.shape)), wish.kind
            raise PassError(
                f"--head {kind}: {cut.node}, {sizes}, is too small for it; use --head auto, or other --exits"
            )
    found = [make_exit(f"exit{i}", cut, outputs, wish) for i, cut in enumerate(cuts)]
    least = [(smallest(cut, outputs, wish.kind), cut.node) for cut, exit in zip(cuts, found, strict=True) if not exit]
    if least:
        size, tap = max(least)
        what = "head" if wish.kind == "auto" else f"{wish.kind} head"
        raise PassError(f"--head-budget: no {what} at {tap} reads {wish.budget} bytes or less; {size}B would do")
    return [exit for exit in found if exit is not None]


def make_exit(name: str, cut: CutPoint, outputs: int, wish: HeadWish) -> Exit | None:
    """With the richest head of the type that fits the budget; None if none does."""
    most = wish.budget
    fitting = (e for e in _shapes(name, cut, wish.kind) if most is None or head_bytes(e, outputs) <= most)
    return next(fitting, None)


def smallest(cut: CutPoint, outputs: int, kind: str) -> int:
    """Bytes of the least head of a type."""
    return min(head_bytes(exit, outputs) for exit in _shapes("", cut, kind))


def words(exit: Exit) -> str:
    """For tables: own, pooled, multiscale 4x4, bottleneck 32, bottleneck 32 of 4x4."""
    windows = f"{exit.grid}x{exit.grid}"
    if exit.head == "bottleneck":
        return f"bottleneck {exit.features}" + (f" of {windows}" if exit.grid > 1 else "")
    return f"multiscale {windows}" if exit.head == "multiscale" else exit.head


def head_facts(exit: Exit, outputs: int) -> dict[str, Any]:
    """Type and cost, for people and manifests. `cache_bytes`: of one image's features in a cache, which are halves."""
    return {
        "head": exit.head,
        "head_words": words(exit),
        "projected": exit.projected,
        "head_bytes": head_bytes(exit, outputs),
        "pack_bytes": pack_bytes(exit, outputs),
        "cache_bytes": 2 * exit.features,
    }


def _shapes(name: str, cut: CutPoint, kind: str) -> list[Exit]:
    """All heads of a type, the richest first; none where there are no windows, or too few channels to narrow."""
    channels, height, width = cut.shape
    possible = [grid for grid in WINDOWS if grid <= min(height, width)]
    fine = [grid for grid in possible if channels * grid * grid <= MOST_FEATURES]
    grids = {"pooled": [1], "multiscale": fine or possible[-1:]}.get(kind, [*fine, 1])
    linear, narrow = [(grid, channels * grid * grid) for grid in grids], list[tuple[int, int, int]]()
    if kind in ("bottleneck", "auto"):
        narrow = [(grid, r, means) for (grid, means), r in product(linear, WIDTHS) if 2 * r <= means]
        narrow.sort(key=lambda shape: (min(shape[1], ENOUGH), *shape), reverse=True)
    found = [Exit(name, cut.node, grid, means, cut.macs) for grid, means in linear if kind != "bottleneck"]
    return found + [Exit(name, cut.node, grid, r, cut.macs, projected=means) for grid, r, means in narrow]
