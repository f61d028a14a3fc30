"""Whatever legal knobs a kernel is built with, it computes the same; none are as by default."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from perse_compile import ops, targets
from perse_compile.lowering.choices import Choices, Chosen, Knobs, default
from perse_compile.lowering.legal import is_legal
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.schedules.elementwise import HeadKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.tuning.space import size, sketches
from tests.compiled import graph_of, run_compiled

TARGET = targets.load("x86_64-linux")


def convolution(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> Any:
    def build(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
        weight = tensor("weight", torch.randn(o, i // groups, kernel, kernel))
        pad = dilation * (kernel // 2)
        arguments = (x, weight, tensor("b", torch.randn(o)), (stride,) * 2, (pad,) * 2, (dilation,) * 2, groups)
        return g.call_function(ops.relu, (g.call_function(ops.conv2d, arguments),))

    return build


def product(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
    flat = g.call_function(ops.reshape, (x, (16 * 6 * 10,)))
    return g.call_function(ops.linear, (flat, tensor("w", torch.randn(40, 16 * 6 * 10)), tensor("b", torch.randn(40))))


def pooling(g: fx.Graph, x: fx.Node, tensor: Any) -> fx.Node:
    return g.call_function(ops.max_pool2d, (x, (3, 3), (2, 2), (1, 1), (1, 1), False))


CASES: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "3x3": (convolution(16, 24, 3), (16, 12, 10)),
    "1x1": (convolution(24, 40, 1), (24, 8, 9)),
    "3x3 with stride": (convolution(16, 32, 3, stride=2), (16, 12, 12)),
    "grouped": (convolution(32, 32, 3, groups=2), (32, 6, 8)),
    "depthwise": (convolution(32, 32, 3, groups=32), (32, 12, 12)),
    "product": (product, (16, 6, 10)),
    "max pooling": (pooling, (32, 12, 16)),
}


def of_case(case: str) -> tuple[fx.GraphModule, torch.Tensor, Workload]:
    build, shape = CASES[case]
    torch.manual_seed(0)
    module = graph_of(build, shape)
    asked = Choices(TARGET)
    from perse_compile.lowering.kernels.scope import Stored
    from perse_compile.lowering.module import lower_nodes, weights_of
    from perse_compile.lowering.values import CHANNELS_LAST

    nodes = list(module.graph.nodes)
    c, h, w = shape
    values = {nodes[0].name: Stored(nodes[0].name, (1, h, w, c), CHANNELS_LAST)}
    lower_nodes(nodes, {nodes[-1].args[0]}, values, weights_of(module), asked)  # type: ignore[arg-type]
    assert asked.last is not None
    return module, torch.randn(1, *shape), asked.last


def some(work: Workload, count: int) -> list[Knobs]:
    """Of every sketch a few."""
    chance = random.Random(3)
    found = []
    for sketch in sketches(work, TARGET):
        for _ in range(count):
            found.append(sketch.knobs([chance.randrange(len(axis.values)) for axis in sketch.axes]))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("case", CASES)
def test_any_legal_knobs_compute_the_same(case: str, tmp_path: Path) -> None:
    module, x, work = of_case(case)
    expected = module(x).detach().numpy()
    scale = float(np.abs(expected).max())
    knobs = some(work, 2)
    assert len(knobs) >= 2 and size(sketches(work, TARGET)) >= 10
    for number, each in enumerate(knobs):
        folder = tmp_path / str(number)
        folder.mkdir()
        forced = Choices(TARGET, lambda asked, each=each: Chosen(each) if asked == work else None)  # type: ignore[misc]
        got = run_compiled(module, x, folder, choices=forced)
        assert forced.made[work].knobs == each
        assert float(np.abs(got - expected).max()) / scale < 2e-5, each


def test_the_default_is_in_the_space_and_legal() -> None:
    for name in ("x86_64-linux", "arm64-linux", "armv7-linux"):
        target = targets.load(name)
        for case in CASES:
            work = of_case(case)[2]
            usual = default(work, target)
            assert is_legal(work, usual, target)
            first = sketches(work, target)[0]
            indices = first.indices(usual)
            assert indices is not None and first.knobs(indices) == usual
            assert all(is_legal(work, knobs, target) for sketch in sketches(work, target) for knobs in sketch.all())


def test_instructions_do_not_choose_what_memory_decides() -> None:
    work = of_case("3x3")[2]
    usual = default(work, TARGET)
    assert isinstance(usual, ConvKnobs)
    for sketch in sketches(work, TARGET, by_instructions=True):
        for knobs in sketch.all():
            assert isinstance(knobs, ConvKnobs)
            assert (knobs.ahead, knobs.winograd) == (usual.ahead, usual.winograd)


CONV = Workload("conv", 12, 10, 16, 24, 1, (3, 3), (1, 1), (1, 1), (1, 1), True)
DEPTHWISE = Workload("depthwise", 12, 12, 32, 32, 32, (3, 3))
HEAD = Workload("head", 1, 1, 64, 120)
ILLEGAL: list[tuple[Workload, object]] = [
    (CONV, DepthwiseKnobs(1, 1, 8, True, True, True)),
    (CONV, ConvKnobs(5, 1, 8, 1, True)),  # rows that do not divide
    (CONV, ConvKnobs(1, 11, 8, 1, True)),  # more columns than there are
    (CONV, ConvKnobs(4, 4, 8, 1, True)),  # more accumulators than registers
    (CONV, ConvKnobs(1, 1, 12, 1, True)),  # no whole vectors
    (CONV, ConvKnobs(1, 2, 8, 5, True)),  # unrolled by what does not divide
    (CONV, ConvKnobs(0, 2, 8, 1, True)),
    (CONV, ConvKnobs(1, 2, 8, 1, False, winograd=3)),
    (CONV, ConvKnobs(2, 2, 8, 1, False, winograd=2)),  # rows of products have weights of their own
    (CONV, ConvKnobs(1, 2, 8, 1, True, winograd=2)),
    (CONV, ConvKnobs(1, 2, 8, 1, True, pieces=7)),
    (CONV, ConvKnobs(1, 2, 8, 1, True, pieces=2, winograd=2)),
    (CONV, ConvKnobs(1, 2, 8, 1, True, ahead=9)),
    (DEPTHWISE, ConvKnobs(1, 1, 8, 1, True)),
    (DEPTHWISE, DepthwiseKnobs(5, 1, 8, True, True, True)),
    (DEPTHWISE, DepthwiseKnobs(1, 1, 4, True, True, True)),
    (DEPTHWISE, DepthwiseKnobs(4, 4, 8, True, True, True)),
    (DEPTHWISE, DepthwiseKnobs(1, 0, 8, True, True, True)),
    (HEAD, HeadKnobs(7, 8)),
    (HEAD, HeadKnobs(1, 3)),
    (HEAD, HeadKnobs(0, 1)),
    (HEAD, ConvKnobs(1, 1, 8, 1, True)),
]


@pytest.mark.parametrize("work, knobs", ILLEGAL, ids=str)
def test_illegal_knobs_are_not_used(work: Workload, knobs: Any) -> None:
    assert not is_legal(work, knobs, TARGET)
    choices = Choices(TARGET, lambda asked: Chosen(knobs, "measured"))
    assert choices.choose(work) == Chosen(default(work, TARGET))
    assert choices.summary() == {"measured": 0, "modelled": 0, "default": 1, "where": []}


def test_words() -> None:
    assert [str(work) for work in (CONV, DEPTHWISE, HEAD)] == [
        "3x3 @12x10 16->24", "depthwise 3x3 @12x12 32", "head 1x64->120",
    ]  # fmt: skip
