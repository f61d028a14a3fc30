"""Run one graph of perse_compile.ops as compiled kernels on this machine: a test's bench for lowering."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from perse_compile import ops, targets
from perse_compile.building.object_code import compile_kernels
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.kernels.scope import KernelCall, Stored
from perse_compile.lowering.module import ModuleBuilder, lower_nodes, weights_of
from perse_compile.lowering.network import Clock
from perse_compile.lowering.plan import place, prim_funcs, read_line
from perse_compile.lowering.values import default_order
from perse_compile.program import InputSpec
from perse_compile.shapes import annotate_graph

DRIVER = """
#include <stdint.h>
#include <stdlib.h>
void *__TVMBackendParallelLaunch __attribute__((weak)), *__TVMBackendAllocWorkspace __attribute__((weak)),
    *__TVMBackendFreeWorkspace __attribute__((weak));
typedef struct { void *sync; int32_t tasks; } env;
static int launch(int (*task)(int, env *, void *), void *closure, int n) {
    int tasks = n ? n : 3, status = 0;
    for (int i = 0; i < tasks; i++) { env e = {0, tasks}; status |= task(i, &e, closure); }
    return status;
}
static void *take(int type, int id, uint64_t size, int code, int bits) {
    (void)type; (void)id; (void)code; (void)bits;
    return aligned_alloc(64, (size + 63) / 64 * 64);
}
static int give(int type, int id, void *p) { (void)type; (void)id; free(p); return 0; }
"""


def graph_of(
    build: Callable[[fx.Graph, fx.Node, Callable[[str, torch.Tensor], fx.Node]], fx.Node], shape: tuple[int, int, int]
) -> fx.GraphModule:
    """A module with one input (C,H,W): `build(graph, x, tensor)` adds nodes and gives the result."""
    graph, root = fx.Graph(), torch.nn.Module()

    def tensor(name: str, value: torch.Tensor) -> fx.Node:
        root.register_buffer(name, value)
        return graph.get_attr(name)

    graph.output(build(graph, graph.placeholder("x"), tensor))
    module = fx.GraphModule(root, graph)
    spec = InputSpec(shape[1], shape[2], shape[0], (0.0,) * shape[0], (1.0,) * shape[0])
    annotate_graph(module.graph, spec, dict(module.named_buffers()))
    return module


def run_compiled(
    module: fx.GraphModule, x: torch.Tensor, folder: Path, target: str = "x86_64-linux", choices: Choices | None = None
) -> np.ndarray[Any, Any]:
    """x (1,C,H,W) -> the result in logical order, computed by compiled kernels in three parallel tasks."""
    device = targets.load(target)
    choices = choices or Choices(device)
    builder = ModuleBuilder(choices)
    calls, values = lowered(module, choices)
    entering, stored = values[next(iter(module.graph.nodes)).name], values[result_of(module).name]
    if not calls:
        return _logical(x.numpy().transpose(0, 2, 3, 1).ravel(), stored)
    builder.add_function("net", [entering], calls, [stored])
    ir = builder.module()
    line, clock = read_line(ir, "net"), Clock()
    clock.run(line)
    arena = place(clock.buffers)
    kernels = prim_funcs(ir)
    compile_kernels(kernels, device, folder / "k.o")
    constants = [np.ascontiguousarray(builder.constants[key].array) for key in builder.functions["net"]]
    arguments = [
        [f"a + {a.buffer.offset}" if a.buffer else f"p[{a.parameter}]" for a in call.arguments] for call in line.calls
    ]
    prototypes = "".join(f"int {n}({', '.join(['void *'] * len(f.params))});\n" for n, f in kernels.items())
    body = "".join(
        f"    status |= {c.kernel}({', '.join(given)});\n" for c, given in zip(line.calls, arguments, strict=True)
    )
    start = (
        "    __TVMBackendParallelLaunch = (void *)launch; __TVMBackendAllocWorkspace = (void *)take;\n"
        "    __TVMBackendFreeWorkspace = (void *)give;\n    int status = 0;\n"
    )
    (folder / "net.c").write_text(
        f"{DRIVER}{prototypes}int net(void **p, char *a) {{\n{start}{body}    return status;\n}}\n"
    )
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "net.c", "k.o", "-lm", "-o", "net.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "net.so"))
    given = [_aligned(np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))), *map(_aligned, constants)]
    pointers = (ctypes.c_void_p * len(given))(*[array.ctypes.data for array in given])
    memory = _aligned(np.full(arena // 4 + 16, np.nan, np.float32))
    assert library.net(pointers, ctypes.c_void_p(memory.ctypes.data)) == 0
    buffer = line.results[0].buffer
    assert buffer is not None
    return _logical(memory[buffer.offset // 4 : (buffer.offset + buffer.size) // 4], stored)


def lowered(module: fx.GraphModule, choices: Choices | None = None) -> tuple[list[KernelCall], dict[str, Stored]]:
    """The kernel calls of a graph, and where every value lies."""
    choices = choices or Choices(targets.load("x86_64-linux"))
    nodes = list(module.graph.nodes)
    c, h, w = nodes[0].meta["shape"]
    values = {nodes[0].name: Stored(nodes[0].name, (1, h, w, c), default_order(4))}
    calls = lower_nodes(nodes, {result_of(module)}, values, weights_of(module), choices)
    return calls, values


def result_of(module: fx.GraphModule) -> fx.Node:
    result = list(module.graph.nodes)[-1].args[0]
    assert isinstance(result, fx.Node)
    return result


def _logical(memory: np.ndarray[Any, Any], stored: Stored) -> np.ndarray[Any, Any]:
    if stored.strides is None:
        array = memory.reshape(stored.shape)
    else:
        steps = [4 * step for step in stored.strides.steps]
        array = np.lib.stride_tricks.as_strided(memory[stored.strides.offset :], stored.shape, steps)
    return array.transpose([stored.order.index(i) for i in range(len(stored.order))])


def _aligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    room = np.empty(array.size + 16, np.float32)
    start = (-room.ctypes.data % 64) // 4
    room[start : start + array.size] = array.ravel()
    return room[start : start + array.size]


def compile_convolution(target: targets.Target, folder: Path) -> Path:
    """The object file of one convolution for a target, which need not run here."""

    def build(graph: fx.Graph, x: fx.Node, tensor: Callable[[str, torch.Tensor], fx.Node]) -> fx.Node:
        return graph.call_function(
            ops.conv2d, (x, tensor("w", torch.randn(32, 16, 3, 3)), None, (2, 2), (1, 1), (1, 1), 1)
        )

    module = graph_of(build, (16, 17, 17))
    calls, _ = lowered(module, Choices(target))
    path = folder / f"{target.name}.o"
    compile_kernels({f"k{i}": call.schedule(call.func) for i, call in enumerate(calls)}, target, path)
    return path
