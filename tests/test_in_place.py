"""What needs no kernel: concatenation in place, slices of channels, scaling taken into weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from perse_compile import ops

from .compiled import graph_of, lowered
from .test_kernels import Build, call, check


def conv(g: fx.Graph, tensor: Any, name: str, source: fx.Node, sizes: tuple[int, int], kernel: int = 1) -> fx.Node:
    """A convolution with padding of sizes[0] channels to sizes[1]."""
    weight = tensor(name, torch.randn(sizes[1], sizes[0], kernel, kernel))
    pad = (kernel // 2, kernel // 2)
    return call(g, ops.conv2d, source, weight, None, (1, 1), pad, (1, 1), 1)


def hints(build: Build, shape: tuple[int, int, int]) -> list[str]:
    return [c.hint for c in lowered(graph_of(build, shape))[0]]


@pytest.mark.parametrize("size", [(9, 11), (7, 7)])
def test_dense_block(size: tuple[int, int], tmp_path: Path) -> None:
    """Every concatenation is the beginning of the last one; only the block's input is copied."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        joined, parts = x, [x]
        for i in range(3):
            normed = call(
                g, ops.relu, call(g, ops.affine, joined, tensor(f"s{i}", torch.randn(16 + 8 * i)),
                                  tensor(f"b{i}", torch.randn(16 + 8 * i)))
            )  # fmt: skip
            parts.append(conv(g, tensor, f"w{i}", normed, (16 + 8 * i, 8), kernel=3))
            joined = call(g, ops.concat, tuple(parts), 1)
        return conv(g, tensor, "last", call(g, ops.relu, joined), (40, 8))

    check(build, (16, *size), tmp_path)
    found = hints(build, (16, *size))
    assert found.count("copy") == 1
    assert not [hint for hint in found if "concat" in hint]


def test_branches(tmp_path: Path) -> None:
    """Parts with padding around the whole, one of them a pool, one read by others too, one used twice."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        one = call(g, ops.relu, conv(g, tensor, "w1", x, (8, 16)))
        three = call(g, ops.relu, conv(g, tensor, "w3", one, (16, 24), kernel=3))
        pool = call(g, ops.max_pool2d, x, (3, 3), (1, 1), (1, 1), (1, 1), False)
        joined = call(g, ops.concat, (one, three, pool, one), 1)
        return conv(g, tensor, "w5", joined, (64, 16), kernel=5)

    check(build, (8, 13, 10), tmp_path)
    assert hints(build, (8, 13, 10)).count("copy") == 1  # of the second `one`


def test_nested(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        a, b, c = (conv(g, tensor, name, x, (8, 8)) for name in "abc")
        inner = call(g, ops.concat, (b, c), 1)
        outer = call(g, ops.concat, (a, inner, conv(g, tensor, "d", inner, (16, 8))), 1)
        return call(g, ops.relu, outer)

    check(build, (8, 9, 10), tmp_path)
    assert len(hints(build, (8, 9, 10))) == 5


def test_a_permuted_part_is_copied(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        turned = call(g, ops.relu, call(g, ops.permute, x, (0, 1, 3, 2)))
        return call(g, ops.concat, (conv(g, tensor, "w", x, (8, 16)), turned), 1)

    check(build, (8, 9, 9), tmp_path)


def test_mostly_others_is_one_copy(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        return call(g, ops.concat, (x, conv(g, tensor, "w", x, (24, 8))), 1)

    check(build, (24, 5, 6), tmp_path)
    assert hints(build, (24, 5, 6)) == ["conv2d", "concat"]


def test_slices_of_channels_are_views(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        first, second = call(g, ops.slice_dim, x, 1, 0, 8), call(g, ops.slice_dim, x, 1, 8, 24)
        return call(g, ops.add, conv(g, tensor, "w", second, (16, 8)), first)

    check(build, (24, 6, 9), tmp_path)
    assert hints(build, (24, 6, 9)) == ["conv2d_add"]


def test_a_slice_in_height_is_a_kernel(tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.slice_dim, x, 2, 1, 4), (8, 6, 5), tmp_path)


@pytest.mark.parametrize("swapped", [True, False])
def test_scaled_in_the_weights(swapped: bool, tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        scale = call(g, ops.sigmoid, call(g, ops.adaptive_avg_pool2d, x, (1, 1)))
        scaled = call(g, ops.mul, *((scale, x) if swapped else (x, scale)))
        return conv(g, tensor, "w", scaled, (24, 40))

    check(build, (24, 9, 8), tmp_path)
    assert "scale" in hints(build, (24, 9, 8))
    assert "scale" not in hints(build, (24, 6, 6))  # more weights than pixels


@pytest.mark.parametrize("kind", ["read twice", "3x3", "scales rows"])
def test_not_scaled_in_the_weights(kind: str, tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        scale = call(g, ops.sigmoid, call(g, ops.mean, x, (3,) if kind == "scales rows" else (2, 3), True))
        scaled = call(g, ops.mul, x, scale)
        result = conv(g, tensor, "w", scaled, (16, 16), kernel=3 if kind == "3x3" else 1)
        return call(g, ops.add, result, scaled) if kind == "read twice" else result

    check(build, (16, 9, 8), tmp_path)
    assert "scale" not in hints(build, (16, 9, 8))


def test_a_slice_is_written_in_place(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        wide = conv(g, tensor, "w", x, (8, 24))
        return call(g, ops.concat, (call(g, ops.slice_dim, wide, 1, 8, 24), conv(g, tensor, "v", x, (8, 8))), 1)

    check(build, (8, 9, 10), tmp_path)
    assert hints(build, (8, 9, 10)) == ["conv2d", "slice_dim", "conv2d"]
