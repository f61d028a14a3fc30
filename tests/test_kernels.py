"""Every operation, compiled, against PyTorch; odd sizes on purpose."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from perse_compile import ops, targets
from perse_compile.building.object_code import compile_kernels
from perse_compile.errors import LoweringError
from perse_compile.lowering.schedules import depthwise

from .compiled import graph_of, lowered, run_compiled
from .tuning.candidates import convolution

Build = Callable[..., fx.Node]


def check(build: Build, shape: tuple[int, int, int], folder: Path, tolerance: float = 2e-5) -> None:
    torch.manual_seed(0)
    module = graph_of(build, shape)
    x = torch.randn(1, *shape)
    expected = module(x).detach().numpy()
    got = run_compiled(module, x, folder)
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    scale = max(1e-6, float(np.abs(expected).max()))
    assert float(np.abs(got - expected).max()) / scale < tolerance


def call(g: fx.Graph, function: Any, *args: Any) -> fx.Node:
    return g.call_function(function, args)


CONVS = {
    # in, height, width, out, kernel, stride, padding, dilation, groups
    "3x3": (16, 14, 14, 32, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "first 7x7 of 3 channels": (3, 33, 29, 24, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    "1x1": (24, 9, 7, 40, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 with stride": (16, 13, 11, 32, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "1x1 with padding": (8, 5, 5, 16, (1, 1), (1, 1), (1, 1), (1, 1), 1),
    "channels no vector divides": (5, 11, 13, 7, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "depthwise of channels no vector divides": (30, 14, 14, 30, (5, 5), (1, 1), (2, 2), (1, 1), 30),
    "prime width": (16, 23, 17, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one channel in": (1, 12, 12, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one channel out": (8, 12, 12, 1, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "not square": (8, 12, 10, 16, (1, 7), (1, 1), (0, 3), (1, 1), 1),
    "different strides": (8, 15, 16, 16, (3, 5), (2, 1), (1, 2), (1, 1), 1),
    "dilated": (8, 17, 17, 16, (3, 3), (1, 1), (2, 2), (2, 2), 1),
    "grouped": (32, 10, 10, 32, (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "groups of four": (32, 10, 10, 32, (3, 3), (2, 2), (1, 1), (1, 1), 8),
    "groups of three": (12, 9, 9, 12, (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "grouped 1x1": (32, 6, 6, 64, (1, 1), (1, 1), (0, 0), (1, 1), 4),
    "depthwise": (24, 15, 15, 24, (3, 3), (1, 1), (1, 1), (1, 1), 24),
    "depthwise 5x5 with stride": (17, 15, 14, 17, (5, 5), (2, 2), (2, 2), (1, 1), 17),
    "depthwise 7x7": (16, 9, 9, 16, (7, 7), (1, 1), (3, 3), (1, 1), 16),
    "depthwise with multiplier": (8, 9, 9, 16, (3, 3), (1, 1), (1, 1), (1, 1), 8),
    "whole image": (16, 7, 7, 32, (7, 7), (1, 1), (0, 0), (1, 1), 1),
    "blocks of three vectors": (24, 9, 9, 72, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "winograd, whole tiles": (64, 16, 12, 64, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "winograd, broken tiles": (48, 14, 17, 72, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "winograd without padding": (64, 15, 13, 32, (3, 3), (1, 1), (0, 0), (1, 1), 1),
    "winograd of small tiles": (128, 7, 7, 128, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "input not used to its edge": (8, 8, 8, 8, (3, 3), (2, 2), (0, 0), (1, 1), 1),
}


@pytest.mark.parametrize("case", CONVS)
@pytest.mark.parametrize("bias", [True, False])
def test_conv2d(case: str, bias: bool, tmp_path: Path) -> None:
    i, h, w, o, kernel, stride, padding, dilation, groups = CONVS[case]

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        weight = tensor("weight", torch.randn(o, i // groups, *kernel))
        b = tensor("bias", torch.randn(o)) if bias else None
        return call(g, ops.conv2d, x, weight, b, stride, padding, dilation, groups)

    check(build, (i, h, w), tmp_path)


ELEMENTWISE = {
    "relu": (), "relu6": (), "hardswish": (), "hardsigmoid": (), "sigmoid": (), "silu": (), "gelu": (), "tanh": (),
    "clamp": (-0.5, 0.75), "leaky_relu": (0.1,), "elu": (1.3,),
    "softplus": (), "mish": (), "absolute": (),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_activation(name: str, spread: float, tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.OPS[name], call(g, ops.mul, x, spread), *ELEMENTWISE[name]), (5, 9, 8), tmp_path)


@pytest.mark.parametrize("name", ["log", "sqrt", "reciprocal"])
@pytest.mark.parametrize(
    "spread", [0.0, 10.0, 80.0]
)  # ratio of the largest to the smallest is exp of about 6 times that
def test_of_positive_numbers(name: str, spread: float, tmp_path: Path) -> None:
    """Not relative to the largest: each by itself."""
    torch.manual_seed(0)
    module = graph_of(lambda g, x, t: call(g, ops.OPS[name], call(g, ops.clamp, x, 1e-30, 1e30)), (5, 9, 8))
    x = torch.exp(torch.linspace(-spread / 2, spread / 2, 360)).reshape(1, 5, 9, 8)
    np.testing.assert_allclose(run_compiled(module, x, tmp_path), module(x).numpy(), rtol=1e-6, atol=1e-7)


def test_exp(tmp_path: Path) -> None:
    module = graph_of(lambda g, x, t: call(g, ops.exp, x), (5, 9, 8))
    x = torch.linspace(-80, 80, 360).reshape(1, 5, 9, 8)
    np.testing.assert_allclose(run_compiled(module, x, tmp_path), module(x).numpy(), rtol=2e-6)


@pytest.mark.parametrize("op", [ops.log, ops.exp, ops.mish, ops.softplus])
def test_at_the_ends(op: Any, tmp_path: Path) -> None:
    values = torch.tensor([-np.inf, -1e30, -100.0, -1.0, 0.0, 1.0, 80.0, 100.0, 1e30, np.inf])
    module = graph_of(lambda g, x, t: call(g, op, x), (1, 1, len(values)))
    x = values.reshape(1, 1, 1, -1)
    expected, got = module(x).numpy(), run_compiled(module, x, tmp_path)
    known = values.numpy() > -np.inf if op is ops.mish else values.numpy() == values.numpy()
    np.testing.assert_allclose(
        got.ravel()[known], expected.ravel()[known], rtol=2e-6, atol=1e-7 if op is ops.mish else 1e-37
    )


def test_long_chains_are_cut(tmp_path: Path) -> None:
    """Each repeats its argument: eight in one kernel are thousands of terms, and minutes to compile."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        for _ in range(8):
            x = call(g, ops.add, call(g, ops.leaky_relu, call(g, ops.mul, x, call(g, ops.sigmoid, x)), 0.1), -0.7)
        return x

    module = graph_of(build, (2, 3, 4))
    calls, _ = lowered(module)
    assert 2 <= len(calls) <= 8
    check(build, (2, 3, 4), tmp_path, tolerance=1e-4)


@pytest.mark.parametrize("op", [ops.maximum, ops.minimum])
def test_extremes_of_two(op: Any, tmp_path: Path) -> None:
    build = lambda g, x, t: call(g, op, call(g, op, x, call(g, ops.mul, x, 0.5)), t("c", torch.randn(5, 1, 1)))  # noqa: E731
    check(build, (5, 9, 8), tmp_path)


@pytest.mark.parametrize("dims", [(1,), (2, 3), (3,), (1, 2, 3)])
@pytest.mark.parametrize("keepdim", [True, False])
def test_greatest(dims: tuple[int, ...], keepdim: bool, tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.amax, call(g, ops.sub, x, 9.0), dims, keepdim), (6, 5, 7), tmp_path)


def test_residual_block(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        first = call(
            g,
            ops.conv2d,
            x,
            tensor("w0", torch.randn(16, 16, 1, 1)),
            tensor("b0", torch.randn(16)),
            (1, 1),
            (0, 0),
            (1, 1),
            1,
        )
        second = call(
            g,
            ops.conv2d,
            call(g, ops.relu, first),
            tensor("w1", torch.randn(16, 16, 3, 3)),
            None,
            (1, 1),
            (1, 1),
            (1, 1),
            1,
        )
        return call(g, ops.relu, call(g, ops.add, second, first))

    check(build, (16, 10, 10), tmp_path)


def test_squeeze_and_excite(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        pooled = call(g, ops.adaptive_avg_pool2d, x, (1, 1))
        down = call(
            g,
            ops.conv2d,
            pooled,
            tensor("w0", torch.randn(4, 16, 1, 1)),
            tensor("b0", torch.randn(4)),
            (1, 1),
            (0, 0),
            (1, 1),
            1,
        )
        up = call(
            g,
            ops.conv2d,
            call(g, ops.silu, down),
            tensor("w1", torch.randn(16, 4, 1, 1)),
            None,
            (1, 1),
            (0, 0),
            (1, 1),
            1,
        )
        return call(g, ops.mul, call(g, ops.sigmoid, up), x)

    check(build, (16, 7, 9), tmp_path)


def test_same_operand_twice(tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.mul, x, x), (3, 5, 5), tmp_path)


def test_constants_of_any_rank(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        scaled = call(g, ops.mul, x, tensor("scale", torch.randn(6, 1, 1)))
        moved = call(g, ops.add, scaled, tensor("grid", torch.randn(1, 6, 5, 4)))
        return call(g, ops.div, call(g, ops.sub, moved, 0.5), 2.0)

    check(build, (6, 5, 4), tmp_path)


def test_layer_scale_after_1x1(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        y = call(g, ops.conv2d, x, tensor("w", torch.randn(8, 8, 1, 1)), None, (1, 1), (0, 0), (1, 1), 1)
        return call(g, ops.mul, y, tensor("scale", torch.randn(8, 1, 1)))

    check(build, (8, 5, 4), tmp_path)


def test_affine(tmp_path: Path) -> None:
    check(
        lambda g, x, t: call(g, ops.relu, call(g, ops.affine, x, t("s", torch.randn(7)), t("b", torch.randn(7)))),
        (7, 6, 5),
        tmp_path,
    )


POOLS = {
    "max 3x3": (ops.max_pool2d, ((3, 3), (2, 2), (1, 1), (1, 1), False)),
    "max with ceil": (ops.max_pool2d, ((3, 3), (2, 2), (0, 0), (1, 1), True)),
    "max dilated": (ops.max_pool2d, ((2, 2), (1, 1), (0, 0), (2, 2), False)),
    "average": (ops.avg_pool2d, ((2, 2), (2, 2), (0, 0), False, True)),
    "average over padding": (ops.avg_pool2d, ((3, 3), (1, 1), (1, 1), False, True)),
    "average without padding": (ops.avg_pool2d, ((3, 3), (2, 2), (1, 1), False, False)),
    "average with ceil": (ops.avg_pool2d, ((3, 3), (2, 2), (1, 1), True, True)),
    "adaptive to one": (ops.adaptive_avg_pool2d, ((1, 1),)),
    "adaptive even": (ops.adaptive_avg_pool2d, ((4, 3),)),
    "adaptive uneven": (ops.adaptive_avg_pool2d, ((5, 4),)),
    "adaptive larger than the image": (ops.adaptive_avg_pool2d, ((13, 14),)),
    "adaptive max": (ops.adaptive_max_pool2d, ((5, 4),)),
    "mean": (ops.mean, ((2, 3), False)),
    "mean kept": (ops.mean, ((2, 3), True)),
    "mean over width": (ops.mean, ((3,), False)),
    "features": (ops.pool_features, (1,)),
    "features on a grid": (ops.pool_features, (2,)),
    "features on an uneven grid": (ops.pool_features, (4,)),
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("channels", [16, 5])
def test_pool(case: str, channels: int, tmp_path: Path) -> None:
    function, args = POOLS[case]
    check(lambda g, x, t: call(g, function, x, *args), (channels, 12, 9), tmp_path)


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_features_of_many_channels(grid: int, tmp_path: Path) -> None:
    """Large enough to be shared among threads."""
    check(lambda g, x, t: call(g, ops.pool_features, x, grid), (64, 28, 28), tmp_path)


def test_pool_of_negative_values(tmp_path: Path) -> None:
    check(
        lambda g, x, t: call(g, ops.max_pool2d, call(g, ops.sub, x, 100.0), (3, 3), (2, 2), (1, 1), (1, 1), False),
        (8, 9, 9),
        tmp_path,
    )


def test_classifier(tmp_path: Path) -> None:
    """Flatten of an image that is not 1x1, as in vgg: memory order is not logical order."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        flat = call(g, ops.reshape, x, (6 * 3 * 4,))
        hidden = call(
            g, ops.relu, call(g, ops.linear, flat, tensor("w0", torch.randn(33, 72)), tensor("b0", torch.randn(33)))
        )
        return call(g, ops.softmax, call(g, ops.linear, hidden, tensor("w1", torch.randn(10, 33)), None), 1)

    check(build, (6, 3, 4), tmp_path)


def test_softmax_over_channels(tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.softmax, x, 1), (7, 4, 3), tmp_path)


def test_convnext_block(tmp_path: Path) -> None:
    """Permute to channels-last, layer norm, two products, permute back."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        last = call(g, ops.permute, x, (0, 2, 3, 1))
        normed = call(g, ops.layer_norm, last, tensor("nw", torch.randn(8)), tensor("nb", torch.randn(8)), 1e-6)
        wide = call(
            g, ops.gelu, call(g, ops.linear, normed, tensor("w0", torch.randn(32, 8)), tensor("b0", torch.randn(32)))
        )
        narrow = call(g, ops.linear, wide, tensor("w1", torch.randn(8, 32)), tensor("b1", torch.randn(8)))
        back = call(g, ops.permute, narrow, (0, 3, 1, 2))
        return call(g, ops.add, call(g, ops.mul, tensor("scale", torch.randn(8, 1, 1)), back), x)

    check(build, (8, 5, 6), tmp_path)


def test_concat_slice_shuffle(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        left, right = call(g, ops.slice_dim, x, 1, 0, 5), call(g, ops.slice_dim, x, 1, 5, 12)
        joined = call(g, ops.concat, (call(g, ops.relu, right), left, x), 1)
        return call(g, ops.channel_shuffle, joined, 3)

    check(build, (12, 5, 4), tmp_path)


def test_concat_in_height(tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.concat, (x, call(g, ops.relu, x)), 2), (3, 4, 5), tmp_path)


def test_shuffle_by_views(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        five = call(g, ops.reshape, x, (2, 6, 5, 4))
        return call(g, ops.reshape, call(g, ops.permute, five, (0, 2, 1, 3, 4)), (12, 5, 4))

    check(build, (12, 5, 4), tmp_path)


def test_pad(tmp_path: Path) -> None:
    check(lambda g, x, t: call(g, ops.pad, x, (1, 2, 0, 3), 0.5), (3, 4, 5), tmp_path)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_pad_by_image(mode: str, tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        padded = call(g, ops.pad_by_image, x, (2, 1, 0, 3), mode)
        return call(g, ops.conv2d, padded, tensor("w", torch.randn(8, 6, 3, 3)), None, (1, 1), (1, 1), (1, 1), 1)

    check(build, (6, 5, 7), tmp_path)


def test_pad_channels(tmp_path: Path) -> None:
    """A shortcut without weights, before a sum."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        wide = call(g, ops.conv2d, x, tensor("w", torch.randn(16, 6, 3, 3)), None, (1, 1), (1, 1), (1, 1), 1)
        return call(g, ops.relu, call(g, ops.add, wide, call(g, ops.pad_channels, x, 3, 7, 0.0)))

    check(build, (6, 9, 11), tmp_path)


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (4, 1)])
def test_upsample(factors: tuple[int, int], tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        grown = call(g, ops.upsample, call(g, ops.relu, x), factors)
        return call(g, ops.conv2d, grown, tensor("w", torch.randn(8, 6, 3, 3)), None, (1, 1), (1, 1), (1, 1), 1)

    check(build, (6, 5, 7), tmp_path)


def test_stack_of_everything_keeps_memory_apart(tmp_path: Path) -> None:
    """Many values alive at once: the arena must not let them overlap."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        branches = [
            call(g, ops.conv2d, x, tensor(f"w{i}", torch.randn(8, 8, k, k)), None, (1, 1), (k // 2, k // 2), (1, 1), 1)
            for i, k in enumerate((1, 3, 5, 1, 3))
        ]
        total = branches[0]
        for branch in branches[1:]:
            total = call(g, ops.add, total, branch)
        return call(g, ops.concat, (total, *branches, x), 1)

    check(build, (8, 9, 9), tmp_path)


def test_winograd_where_it_pays() -> None:
    from perse_compile import targets
    from perse_compile.lowering.defaults import tile_size
    from perse_compile.lowering.kernels.winograd import MATRICES
    from perse_compile.lowering.workload import Workload

    device = targets.load("x86_64-linux")

    def chosen(size: int, channels: int, filters: int, stride: int = 1, kernel: int = 3) -> int:
        work = Workload("conv", size, size, channels, filters, 1, (kernel, kernel), (stride, stride))
        return tile_size(work, device)

    assert [chosen(56, 64, 64), chosen(7, 512, 512)] == [4, 2]
    assert {chosen(112, 3, 32), chosen(56, 64, 64, stride=2), chosen(56, 64, 64, kernel=5), chosen(56, 64, 12)} == {0}
    for m, matrices in MATRICES.items():  # one row of m results of a filter of 3, exactly
        pixels, filter = np.arange(1.0, m + 3), np.array([2.0, -3.0, 5.0])
        products = (matrices.filter @ filter) * (matrices.data @ pixels)
        expected = [pixels[i : i + 3] @ filter for i in range(m)]
        np.testing.assert_allclose(matrices.result @ products, expected, rtol=1e-12)


AVX512 = replace(targets.load("x86_64-linux"), mcpu="x86-64-v4", vector_bytes=64, registers=32)


def test_accumulators_of_a_large_tile_stay_in_registers(tmp_path: Path) -> None:
    """5 pixels x 4 vectors of 64 bytes: TVM would take them from the workspace."""
    tile = {"rows": 1, "columns": 5, "block": 4}
    kernels = {call.hint: call.schedule(call.func) for call in convolution(AVX512, 64, 20, 3, tile).calls}
    compile_kernels(kernels, AVX512, tmp_path / "kernels.o")
    symbols = subprocess.run(["nm", tmp_path / "kernels.o"], capture_output=True, text=True, check=True).stdout
    assert "__TVMBackendParallelLaunch" in symbols and "Workspace" not in symbols


def test_depthwise_tiles_of_wide_vectors_have_more_pixels() -> None:
    def tile(stride: tuple[int, int]) -> tuple[int, int, int]:
        knobs = depthwise.choose((14, 14), 384, (3, 3), stride, AVX512)
        return knobs.rows, knobs.columns, knobs.block

    assert tile((1, 1)) == (2, 7, 16) and tile((2, 2)) == (2, 2, 64)


def test_channels_that_are_no_whole_vectors_are_all_that_a_depthwise_kernel_loops_over() -> None:
    """LLVM then makes vectors of them: with a loop over the rows of the window inside, 6 times as slow."""
    for target, channels in ((AVX512, 72), (targets.load("x86_64-linux"), 60), (targets.load("arm64-linux"), 30)):
        knobs = depthwise.choose((28, 28), channels, (5, 5), (1, 1), target)
        assert (knobs.rows, knobs.block) == (1, 1) and knobs.channels_last and knobs.unroll_x and knobs.unroll_y


def test_strides_of_another_view() -> None:
    from perse_compile.lowering.strided import Strides

    image = Strides((0, 90, 10, 1), 900, 100)  # 5 rows of 7 pixels of 8 channels, with a margin
    assert image.seen_as((1, 5, 7, 8), (5, 7, 8)) == Strides((90, 10, 1), 900, 100)
    assert image.seen_as((1, 5, 7, 8), (1, 1, 35, 8)) is None and image.seen_as((1, 5, 7, 8), (5, 7, 4, 2)) is None
    channels = Strides((0, 140, 20, 1), 700)  # 8 of 20 channels
    assert channels.seen_as((1, 5, 7, 8), (1, 1, 35, 8)) == Strides((700, 700, 20, 1), 700)
    assert channels.seen_as((1, 5, 7, 8), (1, 1, 36, 8)) is None


@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux"])
def test_knobs_fit_the_registers(target: str) -> None:
    from perse_compile import targets
    from perse_compile.lowering.schedules.conv import ConvShape, choose

    device = targets.load(target)
    for width in (1, 2, 7, 13, 56):
        for channels in (1, 8, 24, 60, 512):
            knobs = choose(ConvShape(width, width, channels, channels, 64, (3, 3)), device)
            vectors = max(1, knobs.block // device.lanes)
            assert knobs.rows * knobs.columns * vectors + vectors + 2 <= device.registers
            assert width % knobs.rows == 0


def test_negative_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="negative padding"):
        check(lambda g, x, t: call(g, ops.pad, x, (-1, 0, 0, 0), 0.0), (3, 4, 5), tmp_path)


@pytest.mark.parametrize("rank", [3, 4])
def test_products_of_two_tensors(rank: int, tmp_path: Path) -> None:
    """Attention among places, in one head or several."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        rows, back = ((12, 20), (12, 5, 4)) if rank == 3 else ((3, 4, 20), (12, 5, 4))
        last = tuple(range(rank - 1))
        keys = call(g, ops.reshape, x, rows)
        queries = call(g, ops.permute, keys, (*last[:-1], rank - 1, rank - 2))
        weights = call(g, ops.softmax, call(g, ops.mul, call(g, ops.matmul, queries, keys), 0.3), rank - 1)
        values = call(
            g, ops.relu, call(g, ops.matmul, keys, call(g, ops.permute, weights, (*last[:-1], rank - 1, rank - 2)))
        )
        return call(g, ops.add, call(g, ops.reshape, values, back), x)

    check(build, (12, 5, 4), tmp_path)


@pytest.mark.parametrize("last", ["", "mul", "add", "both"])
def test_large_products_of_two_tensors(last: str, tmp_path: Path) -> None:
    """More than a kernel's workspace holds: row by row, with what comes after."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        keys = call(g, ops.reshape, x, (3, 8, 144))
        queries = call(g, ops.permute, keys, (0, 1, 3, 2))
        made = call(g, ops.matmul, queries, keys)
        if last == "mul":
            made = call(g, ops.mul, made, 0.3)
        if last == "add":
            made = call(g, ops.add, made, tensor("mask", torch.randn(3, 144, 144)))
        if last == "both":
            made = call(g, ops.add, made, call(g, ops.matmul, queries, call(g, ops.relu, keys)))
        return call(g, ops.softmax, made, 3)

    check(build, (24, 12, 12), tmp_path)


@pytest.mark.parametrize("op", [ops.mean, ops.amax])
def test_large_reductions(op: Any, tmp_path: Path) -> None:
    """Of the parts of a split attention: what is left is an image, larger than a kernel's workspace."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        both = call(g, op, call(g, ops.reshape, x, (2, 32, 24, 26)), (1,), False)
        return call(g, ops.relu, call(g, ops.mul, both, 2.0))

    check(build, (64, 24, 26), tmp_path)


@pytest.mark.parametrize("sizes", [(1, 16, 6, 8), (1, 1, 6, 8), (16, 6, 1), (6, 8)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_constants_of_places(kernel: int, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """As a position table: added where the kernel sees all pixels as a few rows."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        weight = tensor("w", torch.randn(16, 32, kernel, kernel))
        made = call(g, ops.conv2d, x, weight, None, (1, 1), (kernel // 2,) * 2, (1, 1), 1)
        return call(g, ops.relu, call(g, ops.add, made, tensor("places", torch.randn(sizes))))

    check(build, (32, 6, 8), tmp_path)


def test_permuted_there_and_back(tmp_path: Path) -> None:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        rows = call(g, ops.relu, call(g, ops.permute, x, (0, 2, 3, 1)))
        back = call(g, ops.permute, call(g, ops.permute, rows, (0, 3, 1, 2)), (0, 2, 3, 1))
        return call(g, ops.add, call(g, ops.layer_norm, back, None, None, 1e-5), rows)

    check(build, (8, 5, 4), tmp_path)


TURNED: dict[str, Build] = {
    "convolution": lambda g, x, t: call(
        g, ops.conv2d, x, t("w", torch.randn(4, 6, 3, 3)), None, (1, 1), (1, 1), (1, 1), 1),
    "1x1 convolution": lambda g, x, t: call(
        g, ops.conv2d, x, t("w", torch.randn(4, 6, 1, 1)), None, (1, 1), (0, 0), (1, 1), 1),
    "pool": lambda g, x, t: call(g, ops.max_pool2d, x, (2, 2), (2, 2), (0, 0), (1, 1), False),
    "mean pool": lambda g, x, t: call(g, ops.avg_pool2d, x, (3, 3), (1, 1), (1, 1), False, True),
    "adaptive pool": lambda g, x, t: call(g, ops.adaptive_avg_pool2d, x, (2, 3)),
    "features": lambda g, x, t: call(g, ops.pool_features, x, 2),
    "mean": lambda g, x, t: call(g, ops.mean, x, (2, 3), False),
    "linear": lambda g, x, t: call(g, ops.linear, x, t("w", torch.randn(4, 4)), None),
    "layer norm": lambda g, x, t: call(g, ops.layer_norm, x, None, None, 1e-5),
    "softmax": lambda g, x, t: call(g, ops.softmax, x, 3),
    "sum with its source": lambda g, x, t: call(
        g, ops.add, call(g, ops.conv2d, x, t("w", torch.randn(6, 6, 1, 1)), None, (1, 1), (0, 0), (1, 1), 1), x),
}  # fmt: skip


@pytest.mark.parametrize("reader", TURNED)
@pytest.mark.parametrize("dims", [(0, 3, 2, 1), (0, 2, 3, 1), (0, 1, 3, 2)])
def test_after_a_permutation(reader: str, dims: tuple[int, ...], tmp_path: Path) -> None:
    shape = [0, 0, 0]  # such that the turned image has 6 channels, 5 rows and 4 columns
    for size, dim in zip((6, 5, 4), dims[1:], strict=True):
        shape[dim - 1] = size

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        return TURNED[reader](g, call(g, ops.permute, call(g, ops.relu, x), dims), tensor)

    check(build, (shape[0], shape[1], shape[2]), tmp_path)


@pytest.mark.parametrize("op", [ops.mean, ops.amax])
@pytest.mark.parametrize("keepdim", [True, False])
def test_one_number_a_row(op: Any, keepdim: bool, tmp_path: Path) -> None:
    """There is no vector to make of what is left of a row."""
    check(lambda g, x, t: call(g, op, call(g, ops.reshape, x, (16, 30)), (2,), keepdim), (16, 5, 6), tmp_path)


def test_tokens(tmp_path: Path) -> None:
    """Places as rows, which still lie as the image does, beside a product of them."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        rows = call(g, ops.permute, call(g, ops.reshape, x, (8, 20)), (0, 2, 1))
        normal = call(g, ops.layer_norm, rows, tensor("nw", torch.randn(8)), tensor("nb", torch.randn(8)), 1e-5)
        made = call(g, ops.linear, normal, tensor("w", torch.randn(8, 8)), tensor("b", torch.randn(8)))
        return call(g, ops.permute, call(g, ops.add, made, rows), (0, 2, 1))

    check(build, (8, 5, 4), tmp_path)


@pytest.mark.parametrize("reader", ["linear", "layer norm"])
def test_along_the_rows_of_an_image(reader: str, tmp_path: Path) -> None:
    check(TURNED[reader], (6, 5, 4), tmp_path)


def test_unknown_operation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="no lowering for log_softmax"):
        check(lambda g, x, t: call(g, ops.log_softmax, x), (3, 4, 5), tmp_path)


def test_margins_instead_of_copies(tmp_path: Path) -> None:
    """Kernels write the zeros around their images; nothing but the narrow image and the graph's input is copied."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        def conv(name: str, source: fx.Node, size: int, groups: int = 1, stride: int = 1) -> fx.Node:
            weight = tensor(name, torch.randn(16, 16 // groups, size, size))
            pad = (size // 2, size // 2)
            return call(g, ops.conv2d, source, weight, None, (stride, stride), pad, (1, 1), groups)

        first = call(g, ops.relu, conv("w0", x, 3))
        pooled = call(g, ops.max_pool2d, first, (3, 3), (1, 1), (1, 1), (1, 1), False)  # zeros do: no value is negative
        wide = call(g, ops.add, conv("w1", pooled, 5, groups=16), pooled)  # reads the same image without its margins
        strided = conv("w2", wide, 3, stride=2)
        return conv("w3", call(g, ops.relu6, conv("w4", strided, 1)), 3)

    check(build, (16, 21, 19), tmp_path)
    calls, values = lowered(graph_of(build, (16, 21, 19)))
    assert [c.hint for c in calls if c.hint in ("pad", "copy")] == ["pad"]
    pooled = next(stored for name, stored in values.items() if "max_pool" in name)
    assert pooled.margins == (2, 2, 2, 2)


@pytest.mark.parametrize("classes", [10, 1000, 21841, 32768])
def test_heads_of_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    """Their kernels fit the workspace."""
    from perse_compile import targets
    from perse_compile.building.object_code import compile_kernels
    from perse_compile.lowering.choices import Choices
    from perse_compile.lowering.heads import lower_head

    device = targets.load("x86_64-linux")
    calls, _ = lower_head(64, classes, Choices(device))
    kernels = {f"k{i}": call.schedule(call.func) for i, call in enumerate(calls)}
    compile_kernels(kernels, device, tmp_path / "k.o")
    assert (tmp_path / "k.o").stat().st_size > 0


@pytest.mark.parametrize("shape", [(16, 96, 96), (24, 5, 7), (8, 1, 1)])
def test_layer_norm_of_any_number_of_pixels(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """What it keeps is of one row, which fits the workspace."""

    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        last = call(g, ops.permute, x, (0, 2, 3, 1))
        weight, bias = tensor("w", torch.randn(shape[0])), tensor("b", torch.randn(shape[0]))
        return call(g, ops.permute, call(g, ops.layer_norm, last, weight, bias, 1e-6), (0, 3, 1, 2))

    check(build, shape, tmp_path)
