"""Weights on their way from memory while the ones before them are still in use.

Processors fetch ahead only what follows the address in use. A convolution goes through its weights block by block
and through one block many times, the first time at the speed of memory, later at the speed of the cache: so each
pass over a block asks for its share of the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

LINE = 16  # floats in a cache line
NEAR = 8192  # floats of weights that stay in the cache anyhow
FOR_READING, INTO_FIRST_CACHE, DATA = 0, 3, 1  # arguments of LLVM's intrinsic


@dataclass(frozen=True)
class Walk:
    """How a kernel goes through its weights; expressions of its loops' variables."""

    weights: tirx.Buffer
    block: Any  # number of the block of weights in use
    block_size: int  # floats
    passes: int  # over one block
    at_pass: Any
    at_step: Any  # of one pass
    step_size: int  # floats


def next_weights(walk: Walk, ahead: int = 1) -> list[tirx.Stmt]:
    """Requests for one step's share of the block `ahead` of this one; none where all weights are near."""
    sizes = [int(size) for size in walk.weights.shape]
    if not ahead or math.prod(sizes) <= NEAR:
        return []
    lines = -(-walk.step_size // LINE)
    share = -(-lines // walk.passes)
    turns = lines // share  # passes after which all is asked for
    at_pass = walk.at_pass % turns if walk.passes > turns else walk.at_pass
    steps = walk.block_size // walk.step_size
    first = (walk.block + ahead) * walk.block_size + (at_pass * steps + walk.at_step) * share * LINE
    innermost = [0] * (len(sizes) - 1)
    return [request(walk.weights, [*innermost, first + line * LINE]) for line in range(share)]


def request(buffer: tirx.Buffer, indices: Sequence[Any]) -> tirx.Stmt:
    """Ask for the cache line where an element lies; it may lie beyond the end."""
    address = tirx.address_of(tirx.BufferLoad(buffer, list(indices)))
    return tirx.Evaluate(
        tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, FOR_READING, INTO_FIRST_CACHE, DATA)
    )
