"""Pooling in its producer: the kernel that makes an image also adds up its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from perse_compile import ops

from .compiled import graph_of, lowered
from .test_kernels import CONVS, Build, call, check


def summed(build: Build, shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Shapes of all sums that kernels give."""
    return [c.sums[1] for c in lowered(graph_of(build, shape))[0] if c.sums]


def convolution(case: str) -> tuple[Any, tuple[int, int, int]]:
    """A builder of the case's convolution with what follows it in most networks, and the shape it reads."""
    i, h, w, o, kernel, stride, padding, dilation, groups = CONVS[case]

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        weight = tensor("weight", torch.randn(o, i // groups, *kernel))
        image = call(g, ops.conv2d, x, weight, tensor("bias", torch.randn(o)), stride, padding, dilation, groups)
        return call(g, ops.relu, image)

    return build, (i, h, w)


@pytest.mark.parametrize("case", CONVS)
def test_mean_of_a_convolution(case: str, tmp_path: Path) -> None:
    """The image has another reader too, which must find it as it was."""
    image, shape = convolution(case)

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        y = image(g, x, tensor)
        return call(g, ops.mul, y, call(g, ops.sigmoid, call(g, ops.mean, y, (2, 3), True)))

    check(build, shape, tmp_path)
    assert len(summed(build, shape)) == (case != "whole image")


@pytest.mark.parametrize("grid", [1, 2, 4])
@pytest.mark.parametrize("kind", ["direct", "one long row", "depthwise", "winograd"])
def test_windows(kind: str, grid: int, tmp_path: Path) -> None:
    """A row in as many pieces as there are windows; a kernel that does not see rows can only add up everything."""
    channels, groups, kernel = {
        "direct": (16, 1, 3), "one long row": (16, 1, 1), "depthwise": (16, 16, 3), "winograd": (64, 1, 3),
    }[kind]  # fmt: skip

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        weight = tensor("weight", torch.randn(channels, channels // groups, kernel, kernel))
        pad = (kernel // 2, kernel // 2)
        image = call(g, ops.conv2d, x, weight, None, (1, 1), pad, (1, 1), groups)
        return call(g, ops.pool_features, image, grid)

    check(build, (channels, 28, 12), tmp_path)
    found = summed(build, (channels, 28, 12))
    if kind == "one long row":
        assert [shape[2] for shape in found] == ([1] if grid == 1 else [])
    else:
        assert found == [(1, 28, grid, channels)]


def test_several_readers(tmp_path: Path) -> None:
    """The finest windows serve the others where they fit into them; else the image itself is read."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        image = call(g, ops.conv2d, x, tensor("w", torch.randn(16, 16, 3, 3)), None, (1, 1), (1, 1), (1, 1), 1)
        means = [call(g, ops.adaptive_avg_pool2d, image, (n, n)) for n in (1, 2, 4, 3)]
        flat = [call(g, ops.reshape, each, (16 * n * n,)) for each, n in zip(means, (1, 2, 4, 3), strict=True)]
        return call(g, ops.concat, tuple(flat), 1)

    check(build, (16, 12, 24), tmp_path)
    assert summed(build, (16, 12, 24)) == [(1, 12, 4, 16)]


def test_an_image_that_lies_in_another(tmp_path: Path) -> None:
    """Its kernel writes a part of what joins it, and gives no sums."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        one, two = (
            call(g, ops.conv2d, x, tensor(f"w{i}", torch.randn(16, 16, 1, 1)), None, (1, 1), (0, 0), (1, 1), 1)
            for i in range(2)
        )
        joined = call(g, ops.concat, (one, two), 1)
        return call(g, ops.concat, (call(g, ops.mean, one, (2, 3), False), call(g, ops.mean, joined, (2, 3), False)), 1)

    check(build, (16, 10, 12), tmp_path)
    assert summed(build, (16, 10, 12)) == []
