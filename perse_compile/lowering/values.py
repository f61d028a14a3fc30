"""What lowering passes around: tensors with a physical layout, and constants still to be laid out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import te

CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class Value:
    """A tensor as it lies in memory: physical dimension i holds logical dimension order[i]; batch is 1.

    Images are logically (1,C,H,W) and lie as (1,H,W,C). A permutation changes `order`, not memory.
    """

    tensor: te.Tensor
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Physical."""
        return tuple(int(size) for size in self.tensor.shape)

    @property
    def logical(self) -> tuple[int, ...]:
        """Shape as the program sees it."""
        sizes = dict(zip(self.order, self.shape, strict=True))
        return tuple(sizes[i] for i in range(len(self.order)))

    @property
    def plain(self) -> bool:
        """Memory order is logical order, not counting dimensions of size 1."""
        kept = [i for i, size in zip(self.order, self.shape, strict=True) if size > 1]
        return kept == sorted(kept)


def default_order(rank: int) -> tuple[int, ...]:
    """Images lie channels-last, anything else as it is."""
    return CHANNELS_LAST if rank == 4 else tuple(range(rank))


def transposed(value: Value, order: tuple[int, ...]) -> Value:
    """The same logical tensor in another memory order (as an expression, to be inlined)."""
    if value.order == order:
        return value
    sizes = value.logical
    shape = tuple(sizes[i] for i in order)

    def at(*index: Any) -> Any:
        logical = dict(zip(order, index, strict=True))
        return value.tensor(*[logical[i] for i in value.order])

    return Value(te.compute(shape, at, name="transposed"), order)


@dataclass(frozen=True)
class Constant:
    """A weight as the kernels want it: packed, float32, contiguous."""

    name: str
    array: NDArray[np.float32]

    @property
    def key(self) -> str:
        """Equal for equal bytes, so that a weight used twice is stored once."""
        head = f"{self.array.shape}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()
