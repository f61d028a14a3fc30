"""A whole program lowered: every stage, pool, head and training step as lines of kernel calls with memory planned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import fx
from tvm import te, tirx

from perse_compile.errors import LoweringError
from perse_compile.exit_nodes import feature_nodes
from perse_compile.lowering.arrangement import note_fused_in
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.expressions import constant
from perse_compile.lowering.heads import TrainingStep, head_inputs, lower_head, lower_training
from perse_compile.lowering.kernels import margins
from perse_compile.lowering.kernels.scope import KernelCall, Stored, copy
from perse_compile.lowering.module import ModuleBuilder, lower_nodes, weights_of
from perse_compile.lowering.plan import Argument, Buffer, Line, place, prim_funcs, read_line
from perse_compile.lowering.pooled import sums_of
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.values import CHANNELS_LAST, Constant
from perse_compile.program import Exit, Program
from perse_compile.shapes import annotate_shapes
from perse_compile.targets import Target

TRAIN_BATCH = 32
COMPILED_AFTER = ("propagate-shapes", "insert-exits", "split-stages", "build-training-graph")  # passes
CACHE_LINE = 64


@dataclass(frozen=True)
class LoweredExit:
    """What one exit needs at run time. Each line's first parameter is its data, the others weights or heads."""

    exit: Exit
    stage: Line
    pool: Line
    head: Line
    training: TrainingStep
    train_arena: int  # bytes


@dataclass(frozen=True)
class Network:
    """Ready to be emitted: kernels, weights with offsets, and lines whose buffers have their places in the arena."""

    program: Program
    choices: Choices
    input_u8: Line
    input_f32: Line
    exits: list[LoweredExit]
    kernels: dict[str, tirx.PrimFunc]
    weights: list[tuple[int, Constant]]  # (offset in the weights section, values)
    weights_of_line: dict[str, list[int]]  # line name -> offsets of the weights it takes, in order
    weights_size: int
    arena: int  # bytes
    live: int  # bytes of the greatest set of buffers alive together

    @property
    def target(self) -> Target:
        return self.choices.target


def lower(program: Program, choices: Choices) -> Network:
    """Kernels scheduled with these choices for their target, every line planned. Raises LoweringError."""
    missing = [name for name in COMPILED_AFTER if name not in program.passes]
    if missing:
        raise LoweringError(
            f"{program.name} has not been through {', '.join(missing)}; `perse-compile insert-exits` does all of that"
        )
    annotate_shapes(program)
    target, builder = choices.target, ModuleBuilder(choices)
    note_fused_in(program)
    image = _add_inputs(builder, program)
    values: dict[str, Stored] = {image.name: image}
    for index, exit in enumerate(program.exits):
        _add_stage(builder, program, index, values)
        _add_pool(builder, program, exit, values)
        _add_head(builder, exit, program.outputs)
    module = builder.module()
    steps = {
        exit.name: lower_training(
            program.training[exit.name], f"train_{exit.name}", exit.features, program.outputs, TRAIN_BATCH, target
        )
        for exit in program.exits
    }
    lines = {name: read_line(module, name) for name in builder.functions}
    weights, where = _lay_out(builder)
    arena, live = _plan(program, lines)
    kernels = prim_funcs(module)
    for step in steps.values():
        kernels |= step.kernels
    exits = [
        LoweredExit(
            e,
            lines[f"stage_{e.name}"],
            lines[f"pool_{e.name}"],
            lines[f"head_{e.name}"],
            steps[e.name],
            _plan_step(steps[e.name]),
        )
        for e in program.exits
    ]
    offsets = {name: [where[key] for key in keys] for name, keys in builder.functions.items()}
    size = max((offset + c.array.nbytes for offset, c in weights), default=0)
    return Network(
        program,
        choices,
        lines["input_u8"],
        lines["input_f32"],
        exits,
        kernels,
        weights,
        offsets,
        _aligned(size),
        arena,
        live,
    )


def _placeholder(program: Program) -> fx.Node:
    return next(node for node in program.module.graph.nodes if node.op == "placeholder")


def _add_inputs(builder: ModuleBuilder, program: Program) -> Stored:
    """uint8 pixels to what the network was trained on, (pixel / 255 - mean) / std, and the same for such floats."""
    spec = program.input
    shape = (1, spec.height, spec.width, spec.channels)
    std, mean = np.array(spec.std, np.float64), np.array(spec.mean, np.float64)
    scale = Constant("input.scale", (1 / (255 * std)).astype(np.float32))
    shift = Constant("input.shift", (-mean / std).astype(np.float32))
    first = _placeholder(program)
    image = margins.with_margins(first.name, shape, margins.wanted(first, builder.choices))
    pixels, ready = te.placeholder(shape, "uint8", name="pixels"), te.placeholder(shape, name="ready")
    s, b = te.placeholder(scale.array.shape, name="scale"), te.placeholder(shift.array.shape, name="shift")
    normalised = te.compute(shape, lambda n, h, w, c: pixels[n, h, w, c].astype("float32") * s[c] + b[c], name="image")
    copied = te.compute(shape, lambda *i: ready(*i) * constant(1.0), name="image")
    for name, dtype, parameters, constants in (
        ("input_u8", "uint8", [pixels, s, b, normalised], [scale, shift]),
        ("input_f32", "float32", [ready, copied], []),
    ):
        func = margins.write(margins.begin(te.create_prim_func(parameters), image), image)
        schedule = partial(elementwise.schedule, target=builder.choices.target)
        call = KernelCall(name, func, schedule, [("pixels", shape), *constants], image.name, image.memory)
        builder.add_function(name, [Stored("pixels", shape, CHANNELS_LAST, dtype)], [call], [image])
    return image


def _add_stage(builder: ModuleBuilder, program: Program, index: int, values: dict[str, Stored]) -> None:
    stage = program.stages[index]
    nodes = [program.node(name) for name in stage.nodes]
    tap = program.node(stage.output)
    entering = values[stage.input]
    inside = {stage.input: entering}
    calls = lower_nodes(nodes, {tap}, inside, weights_of(program.module), builder.choices)
    if inside[tap.name].name == entering.name:  # the stage only looks at its input differently
        seen = inside[tap.name]
        inside[tap.name] = Stored(tap.name, seen.shape, seen.order)
        calls.append(copy(seen, inside[tap.name], builder.choices.target))
    result = inside[tap.name]
    sums = [inside[sums_of(tap)]] if sums_of(tap) in inside else []
    builder.add_function(f"stage_{stage.name}", [entering], calls, [result, *sums])
    values[tap.name] = replace(result, name=tap.name)
    values |= {each.name: each for each in sums}


def _add_pool(builder: ModuleBuilder, program: Program, exit: Exit, values: dict[str, Stored]) -> None:
    """From the tap to what the head reads, a bottleneck's projection included."""
    nodes = feature_nodes(program, exit)
    tap, sums = values[exit.tap], values.get(sums_of(program.node(exit.tap)))
    inside = {each.name: each for each in (tap, sums) if each is not None}
    calls = lower_nodes(nodes, {nodes[-1]}, inside, weights_of(program.module), builder.choices)
    builder.add_function(f"pool_{exit.name}", [sums or tap], calls, [inside[nodes[-1].name]])


def _add_head(builder: ModuleBuilder, exit: Exit, classes: int) -> None:
    calls, logits = lower_head(exit.features, classes, builder.choices)
    builder.add_function(f"head_{exit.name}", head_inputs(exit.features, classes), calls, [logits])


def _lay_out(builder: ModuleBuilder) -> tuple[list[tuple[int, Constant]], dict[str, int]]:
    """Every constant once, in order of first use, each on a cache line."""
    laid, where, offset = [], {}, 0
    for key, weight in builder.constants.items():
        laid.append((offset, weight))
        where[key] = offset
        offset = _aligned(offset + weight.array.nbytes)
    return laid, where


def _plan(program: Program, lines: dict[str, Line]) -> tuple[int, int]:
    """One arena for everything between an image and its last exit, on one clock."""
    clock = Clock()
    clock.run(lines["input_u8"])
    current = _buffer(lines["input_u8"].results[0])
    _replace(lines["input_f32"], lines["input_f32"].results[0], current)  # the other way to the same image
    for exit in program.exits:
        stage, pool, head = (lines[f"{kind}_{exit.name}"] for kind in ("stage", "pool", "head"))
        _feed(stage, current)
        clock.run(stage)
        current = _buffer(stage.results[0])
        _feed(pool, _buffer(stage.results[-1]))  # its image, or the sums of the image's rows
        clock.run(pool)
        clock.touch(current)
        clock.run(head)
    live = clock.greatest_live()
    return place(clock.buffers, live), live


def _plan_step(step: TrainingStep) -> int:
    """Loss and gradients, then both updates, in an arena of their own."""
    _, weight_gradient, bias_gradient = step.gradient.results
    clock = Clock()
    clock.run(step.gradient)
    _feed(step.update_weight, _buffer(weight_gradient), parameter=1)
    _feed(step.update_bias, _buffer(bias_gradient), parameter=1)
    clock.run(step.update_weight)
    clock.run(step.update_bias)
    for result in (*step.gradient.results, *step.update_weight.results, *step.update_bias.results):
        clock.touch(_buffer(result))
    return place(clock.buffers)


class Clock:
    """Numbers the calls of several lines and notes when each buffer is first written and last read."""

    def __init__(self) -> None:
        self.time = 0
        self.buffers: list[Buffer] = []

    def run(self, line: Line) -> None:
        for call in line.calls:
            self.time += 1
            for argument in call.arguments:
                if argument.buffer is not None:
                    self.touch(argument.buffer)
        self.time += 1
        for result in line.results:
            if result.buffer is not None:
                self.touch(result.buffer)

    def touch(self, buffer: Buffer) -> None:
        if buffer.first < 0:
            buffer.first = self.time
            self.buffers.append(buffer)
        buffer.last = self.time

    def greatest_live(self) -> int:
        return max(
            (sum(b.size for b in self.buffers if b.first <= t <= b.last) for t in range(self.time + 1)), default=0
        )


def _feed(line: Line, buffer: Buffer, parameter: int = 0) -> None:
    """Let a line read `buffer` where it took a parameter."""
    _replace(line, Argument(parameter=parameter), buffer)


def _replace(line: Line, given: Argument, buffer: Buffer) -> None:
    fed = Argument(buffer=buffer)
    for call in line.calls:
        call.arguments = [fed if argument == given else argument for argument in call.arguments]
    line.results = [fed if result == given else result for result in line.results]


def _buffer(argument: Argument) -> Buffer:
    assert argument.buffer is not None
    return argument.buffer


def _aligned(size: int) -> int:
    return -(-size // CACHE_LINE) * CACHE_LINE
