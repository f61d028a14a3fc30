"""What heads would read at every candidate, from one pass over the images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perse_compile.errors import DataError
from perse_compile.passes.head_types import AUTO, HeadWish, make_exits
from perse_compile.passes.insert_exits import InsertExits
from perse_compile.personalise.features import CHUNK, feature_module, normalise
from perse_compile.personalise.train_exits import read_head
from perse_compile.pipeline import run
from perse_compile.placement.parallel import for_each
from perse_compile.program import CutPoint, Exit, Program

MEMORY = 1 << 30  # bytes that features may take
HALF_MAX = 65504.0
Tell = Callable[[int, int], None]


def with_exits_everywhere(program: Program, cuts: Sequence[CutPoint], head: HeadWish = AUTO, spare: int = 0) -> Program:
    """A copy with a head at every candidate and the network's own classifier as the last; the tensors are shared."""
    probe = copy.deepcopy(program, {id(tensor): tensor for tensor in program.tensors().values()})
    probe.exits = make_exits(cuts, len(program.classes) + spare, head)
    probe.passes.append("place-exits")
    return run(probe, [InsertExits()])


def precision(exits: Sequence[Exit], images: int, memory: int = MEMORY) -> type[np.float32] | type[np.float16]:
    """Of the features of all exits but the last: single if they fit in `memory`, else half. Raises DataError."""
    numbers = sum(exit.features for exit in exits[:-1])
    if 4 * numbers * images <= memory:
        return np.float32
    if 2 * numbers * images <= memory:
        return np.float16
    raise DataError(
        f"features of {images} images at {len(exits) - 1} candidates do not fit in {memory / 1e9:.1f} GB;"
        f" give at most {memory // (2 * numbers)} images, or fewer candidates with --exits a,b,c"
    )


def extract(
    probe: Program, pixels: NDArray[np.uint8], tell: Tell, memory: int = MEMORY
) -> tuple[list[NDArray[np.floating]], Tensor]:
    """Features [N,F] of every candidate, and the logits [N,K] of the network itself. Raises DataError."""
    kind, count = precision(probe.exits, len(pixels), memory), len(pixels)
    kept: list[NDArray[np.floating]] = [np.empty((count, exit.features), kind) for exit in probe.exits[:-1]]
    network, final = feature_module(probe), read_head(probe, probe.exits[-1])
    logits = torch.empty(count, len(final.bias))

    def chunk(start: int) -> None:
        with torch.no_grad():  # in every thread anew
            images = slice(start, min(start + CHUNK, count))
            *taps, last = network(normalise(torch.from_numpy(pixels[images]), probe.input))
            for store, found in zip(kept, taps, strict=True):
                store[images] = found.clamp(-HALF_MAX, HALF_MAX).numpy() if kind is np.float16 else found.numpy()
            logits[images] = final(last)

    for_each(chunk, range(0, count, CHUNK), lambda done, _: tell(min(done * CHUNK, count), count))
    return kept, logits
