"""3x3 convolution with fewer multiplications: Winograd's minimal filtering F(m x m, 3 x 3).

Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), section 4. With n = m + 2, for every tile
of n x n pixels d and every filter g:   Y = A' [ (G g G') * (B' d B) ] A,   summed over input channels in between,
which makes n*n matrix products of (tiles x channels) by (channels x filters). G g G' is computed at build time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx
from tvm import te, tirx

from perse_compile.lowering.expressions import constant
from perse_compile.lowering.kernels.padding import padded_input
from perse_compile.lowering.kernels.scope import Array, KernelCall, Scope, Stored
from perse_compile.lowering.schedules import conv
from perse_compile.lowering.schedules import winograd as schedules
from perse_compile.lowering.strided import Strides, with_strides
from perse_compile.lowering.values import Constant
from perse_compile.lowering.workload import Workload

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Matrices:
    """B' (n,n), G (n,3) and A' (m,n) of F(m,3)."""

    data: Numbers
    filter: Numbers
    result: Numbers


def _matrices(data: Any, filter: Any, result: Any) -> Matrices:
    return Matrices(*(np.array(m, np.float64) for m in (data, filter, result)))


MATRICES = {
    2: _matrices(
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: _matrices(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}

LINE = 16  # floats in a cache line


def convolve(scope: Scope, node: fx.Node, weight: Array, name: str, work: Workload, knobs: conv.ConvKnobs) -> te.Tensor:
    """The convolution without bias: adds the two kernels before it, and gives (height, width, channels) of the last."""
    m = knobs.winograd
    matrices = MATRICES[m]
    across = -(-work.width // m)
    tiles = _transform_data(scope, node, matrices, across, (-work.height % m, -work.width % m))
    products = _multiply(scope, weight, name, matrices, tiles, knobs)
    spectrum = scope.place(products, products.shape).tensor
    n, _, count, filters = products.shape
    rows = te.compute(
        (m, n, count, filters),
        lambda i, q, t, c: _combine(matrices.result, i, lambda p: spectrum[p, q, t, c]),
        name="rows",
    )
    scope.schedule = partial(schedules.result, m=m, target=scope.target)
    scope.describe(0, f"winograd out F({m}) @{work.height}x{work.width} {filters}")
    return te.compute(
        (work.height, work.width, filters),
        lambda h, w, c: _combine(matrices.result, w % m, lambda q: rows[h % m, q, h // m * across + w // m, c]),
        name="acc",
    )


def _spectrum(name: str, n: int, tiles: int, channels: int) -> Stored:
    """(n, n, tiles, channels), where an odd number of cache lines lies between the n*n values of one channel of a tile.

    They are used together; at a multiple of 4096 bytes from each other they would all claim the same few places in
    the cache.
    """
    step = -(-tiles * channels // LINE) * LINE
    step += LINE * (step // LINE % 2 == 0)
    strides = Strides((n * step, step, channels, 1), n * n * step)
    return Stored(name, (n, n, tiles, channels), (0, 1, 2, 3), strides=strides)


def _transform_data(scope: Scope, node: fx.Node, matrices: Matrices, across: int, beyond: tuple[int, int]) -> Stored:
    """Kernel before: from the padded image, with rows and columns for whole tiles, to tiles of spectrum."""
    data = padded_input(scope, node, beyond)
    source = scope.inputs.pop()[1]
    m, n = matrices.result.shape
    channels = int(data.shape[-1])
    result = _spectrum(f"{node.name}.tiles", n, (int(data.shape[1]) - 2) // m * across, channels)

    def pixel(t: Any, i: Any, j: Any, c: Any) -> Any:
        return data[0, t // across * m + i, t % across * m + j, c]

    rows = te.compute(
        (result.shape[2], channels, n, n),
        lambda t, c, p, j: _combine(matrices.data, p, lambda i: pixel(t, i, j, c)),
        name="rows",
    )
    out = te.compute(
        result.shape, lambda p, q, t, c: _combine(matrices.data, q, lambda j: rows[t, c, p, j]), name="tiles"
    )
    func = te.create_prim_func([data, out]).with_attrs(
        {"macs": 0, "what": f"winograd in F({m}) @{result.shape[2]} tiles {channels}"}
    )
    func = with_strides(func, {**scope.strided, 1: _strides(result)})
    scope.strided.clear()
    schedule = partial(schedules.transform, target=scope.target)
    scope.before.append(KernelCall("winograd_in", func, schedule, [source], result.name, result.memory))
    return result


def _multiply(
    scope: Scope, weight: Array, name: str, matrices: Matrices, tiles: Stored, knobs: conv.ConvKnobs
) -> Stored:
    """Kernel before: n*n products of (tiles x channels) by (channels x filters)."""
    n, _, count, channels = tiles.shape
    filters = len(weight)
    macs = n * n * count * filters * channels
    spectrum = np.einsum("pi,ocij,qj->pqoc", matrices.filter, weight.astype(np.float64), matrices.filter)
    blocks = -(-filters // knobs.block)
    whole = np.pad(spectrum.reshape(n * n, filters, channels), ((0, 0), (0, blocks * knobs.block - filters), (0, 0)))
    packed = whole.reshape(n * n, blocks, knobs.block, channels).transpose(0, 1, 3, 2)
    result = _spectrum(tiles.name.replace(".tiles", ".products"), n, count, filters)
    data, weights = tiles.as_value().tensor, te.placeholder(packed.shape, name="weights")
    wide = -(-count // knobs.columns) * knobs.columns
    y, x = te.reduce_axis((0, 1), "y"), te.reduce_axis((0, 1), "x")
    r = te.reduce_axis((0, channels), "r")

    def product(p: Any, t: Any, c: Any) -> Any:
        tile = t if wide == count else tirx.min(t, count - 1)
        image, value = data[p // n + y, p % n + x, tile, r], weights[p, c // knobs.block, r, c % knobs.block]
        return te.sum(image * value, axis=[y, x, r])

    acc = te.compute((n * n, wide, blocks * knobs.block), product, name="acc")
    out = te.compute(result.shape, lambda p, q, t, c: acc[p * n + q, t, c], name="products")
    func = te.create_prim_func([data, weights, out]).with_attrs(
        {"macs": macs, "what": f"winograd product {n * n} x {count}x{channels}x{filters}"}
    )
    func = with_strides(func, {0: _strides(tiles), 2: _strides(result)})
    schedule = partial(conv.schedule, knobs=knobs, lanes=scope.target.lanes)
    constant = Constant(f"{name}.winograd", np.ascontiguousarray(packed, np.float32))
    inputs: list[tuple[str, tuple[int, ...]] | Constant] = [(tiles.name, tiles.memory), constant]
    scope.before.append(KernelCall("winograd", func, schedule, inputs, result.name, result.memory))
    return result


def _strides(stored: Stored) -> Strides:
    assert stored.strides is not None
    return stored.strides


def _combine(matrix: Numbers, row: Any, value: Callable[[int], Any]) -> Any:
    """sum over k of matrix[row, k] * value(k); `row` becomes a number when its loop is unrolled."""

    def term(numbers: Numbers) -> Any:
        total: Any = None
        for k in np.flatnonzero(numbers):
            factor = float(numbers[k])
            one = value(int(k)) if abs(factor) == 1 else value(int(k)) * constant(abs(factor))
            if total is None:
                total = one if factor > 0 else constant(0.0) - one
            else:
                total = total + one if factor > 0 else total - one
        return total

    result = term(matrix[-1])
    for number in reversed(range(len(matrix) - 1)):
        result = tirx.if_then_else(row == number, term(matrix[number]), result)
    return result
