"""plan.c: the network as a readable C file that calls the kernels in order."""

from __future__ import annotations

import re
from dataclasses import dataclass

from perse_compile import __version__
from perse_compile.errors import BuildError
from perse_compile.lowering.heads import STEP_INPUTS, UPDATE_INPUTS
from perse_compile.lowering.network import TRAIN_BATCH, LoweredExit, Network
from perse_compile.lowering.plan import Argument, Line
from perse_compile.lowering.schedules.rows import SUMS
from perse_compile.macs import head_macs

HEAD = ["features", "head->shift", "head->scale", "head->weight", "head->bias"]
STEP = {
    "features": "step->features",
    **{leaf: f"step->head->{leaf}" for leaf in ("shift", "scale", "weight", "bias")},
    "anchor_weight": "step->anchor->weight",
    "anchor_bias": "step->anchor->bias",
    "hard": "step->hard",
    "soft": "step->soft",
    "inverse_temperature": "&step->inverse_temperature",
    "decay": "&step->decay",
}


@dataclass(frozen=True)
class Backbone:
    """What plan.c must know of backbone.bin: which one this code was built for."""

    size: int
    crc32: int
    heads_id: int


def emit(network: Network, backbone: Backbone) -> str:
    """The whole file."""
    parts = [_preamble(network), _prototypes(network), _input(network)]
    parts += [
        part
        for exit in network.exits
        for part in (_stage(network, exit), _pool(network, exit), _head(exit), _train(exit))
    ]
    return "\n".join([*parts, _tables(network, backbone)])


def c_name(name: str) -> str:
    """The one check that every name passes before it becomes a C identifier."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", name):
        raise BuildError(f"{name!r} cannot be a C identifier")
    return name


def c_string(text: str) -> str:
    """A C string literal for any text, in ASCII; `?` is escaped because `??/` is a trigraph."""
    known = {ord(c): f"\\{c}" for c in '"\\?'}
    return '"' + "".join(known.get(b, chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def _preamble(network: Network) -> str:
    name = _comment(network.program.name)
    return f"""/* plan.c - {name} for {network.target.name}: which kernel runs when, on which memory.
 * Written by perse-compile {__version__}; building again writes it again. */
#include "plan.h"

#include <string.h>

#define A(offset) ((void *)(arena + (offset)))
#define W(offset) ((const void *)(weights + (offset)))
#ifndef RUN
#define RUN(call) \\
    do {{ \\
        if ((call) != 0) return 1; \\
    }} while (0)
#endif
"""


def _comment(text: str) -> str:
    text = "".join(" " if c < " " else c for c in text)
    return text.replace("\\", "|").replace("*/", "* /").replace("/*", "/ *")


def _prototypes(network: Network) -> str:
    """Every kernel writes its last argument; one that adds up rows, the sums before it."""
    written = {name: 2 if SUMS in func.attrs else 1 for name, func in network.kernels.items()}
    return "".join(prototype(c_name(name), len(network.kernels[name].params) - n, n) for name, n in written.items())


def prototype(kernel: str, read: int, written: int) -> str:
    """How C declares a kernel that reads and then writes so many tensors."""
    return f"int {kernel}({', '.join(['const void *'] * read + ['void *'] * written)});\n"


def _calls(line: Line, parameters: list[str], results: dict[int, str]) -> list[str]:
    """C statements; `results` says which buffers (by identity) lie in the caller's memory instead of the arena."""

    def expression(argument: Argument) -> str:
        if argument.buffer is not None:
            return results.get(id(argument.buffer)) or f"A({argument.buffer.offset})"
        assert argument.parameter is not None
        return parameters[argument.parameter]

    return [f"    RUN({call.kernel}({', '.join(expression(a) for a in call.arguments)}));" for call in line.calls]


def _function(signature: str, statements: list[str], unused: tuple[str, ...] = ()) -> str:
    quiet = [f"    (void){name};" for name in unused]
    return "\n".join([f"static int {signature} {{", *quiet, *statements, "    return 0;", "}"]) + "\n"


def _weights(network: Network, line: Line) -> list[str]:
    return [f"W({offset})" for offset in network.weights_of_line[line.name]]


def _input(network: Network) -> str:
    functions = []
    for kind, line in (("uint8_t", network.input_u8), ("float", network.input_f32)):
        calls = _calls(line, ["image", *_weights(network, line)], {})
        signature = f"{line.name}(uint8_t *arena, const uint8_t *weights, const {kind} *image)"
        functions.append(_function(signature, calls, ("weights",)))
    return "\n".join(functions)


def _stage(network: Network, exit: LoweredExit) -> str:
    calls = _calls(exit.stage, ["", *_weights(network, exit.stage)], {})
    return _function(f"stage_{c_name(exit.exit.name)}(uint8_t *arena, const uint8_t *weights)", calls, ("weights",))


def _pool(network: Network, exit: LoweredExit) -> str:
    result = exit.pool.results[0]
    signature = f"pool_{c_name(exit.exit.name)}(uint8_t *arena, const uint8_t *weights, float *features)"
    if not exit.pool.calls:
        assert result.buffer is not None
        copy = f"    memcpy(features, A({result.buffer.offset}), {exit.exit.features * 4});"
        return _function(signature, [copy], ("weights",))
    calls = _calls(exit.pool, ["", *_weights(network, exit.pool)], {id(result.buffer): "features"})
    return _function(signature, calls, ("weights", "arena"))


def _head(exit: LoweredExit) -> str:
    calls = _calls(exit.head, HEAD, {id(exit.head.results[0].buffer): "logits"})
    name = c_name(exit.exit.name)
    return _function(
        f"head_{name}(uint8_t *arena, const float *features, const perse_head *head, float *logits)", calls
    )


def _train(exit: LoweredExit) -> str:
    step, statements = exit.training, _calls(exit.training.gradient, [STEP[name] for name in STEP_INPUTS], {})
    copies = [("step->loss", step.gradient.results[0])]
    for leaf, line in (("weight", step.update_weight), ("bias", step.update_bias)):
        given = {
            "parameter": f"step->head->{leaf}",
            "gradient": "",
            "velocity": f"step->velocity_{leaf}",
            "learning_rate": "&step->learning_rate",
            "momentum": "&step->momentum",
        }
        statements += _calls(line, [given[name] for name in UPDATE_INPUTS], {})
        copies += [(f"step->head->{leaf}", line.results[0]), (f"step->velocity_{leaf}", line.results[1])]
    for destination, source in copies:
        assert source.buffer is not None
        statements.append(f"    memcpy({destination}, A({source.buffer.offset}), {source.buffer.size});")
    return _function(f"train_{c_name(exit.exit.name)}(uint8_t *arena, const perse_step *step)", statements)


def _tables(network: Network, backbone: Backbone) -> str:
    program, spec = network.program, network.program.input
    rows, before = [], 0
    for exit in network.exits:
        name, tap, macs = c_name(exit.exit.name), c_string(exit.exit.tap), exit.exit.macs
        sizes = f"{exit.exit.features}, {macs - before}u, {head_macs(program, name)}u, {exit.train_arena}u"
        rows.append(f"    {{{c_string(name)}, {tap}, {sizes}, stage_{name}, pool_{name}, head_{name}, train_{name}}},")
        before = macs
    names = "\n".join(f"    {c_string(name)}," for name in program.classes)
    table = "\n".join(rows)
    return f"""static const char *const class_names[] = {{
{names}
}};

static const perse_exit_plan exits[] = {{
{table}
}};

const perse_plan perse_the_plan = {{
    .name = {c_string(program.name)},
    .target = {c_string(network.target.name)},
    .version = {c_string(__version__)},
    .class_names = class_names,
    .height = {spec.height},
    .width = {spec.width},
    .channels = {spec.channels},
    .classes = {program.outputs},
    .exits = {len(network.exits)},
    .spare = {program.spare},
    .train_batch = {TRAIN_BATCH},
    .backbone_crc32 = {backbone.crc32}u,
    .backbone_size = {backbone.size}u,
    .heads_id = {backbone.heads_id}u,
    .arena_size = {network.arena}u,
    .input_u8 = input_u8,
    .input_f32 = input_f32,
    .exit = exits,
}};
"""
