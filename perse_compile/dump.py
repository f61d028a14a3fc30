"""A program as text, for people and for golden tests: no addresses, paths, versions or timings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import fx

from perse_compile.pipeline import Observer, Pass
from perse_compile.program import Program


def dump(program: Program) -> str:
    spec = program.input
    lines = [f"program {program.name}: {spec.channels}x{spec.height}x{spec.width} -> {len(program.classes)} classes"]
    if program.spare:
        lines[0] += f", room for {program.spare}"
    lines += ["", "graph", *dump_graph(program.module.graph, program.module)]
    lines += section("cuts", (f"{c.node} {shape(c.shape)} {c.macs} MACs" for c in program.cuts))
    lines += section("exits", (
        f"{e.name}: tap {e.tap}, grid {e.grid}, {e.features} features"
        f"{f' of {e.projected} means' if e.projected else ''}, {e.macs} MACs,"
        f" temperature {e.temperature:g}, threshold {e.threshold:g}, {'enabled' if e.enabled else 'disabled'}"
        for e in program.exits
    ))  # fmt: skip
    lines += section("stages", (f"{s.name}: {s.input} -> {s.output}, {len(s.nodes)} nodes" for s in program.stages))
    for name, graph in program.training.items():
        lines += ["", f"training {name}", *dump_graph(graph)]
    return "\n".join(lines) + "\n"


def section(title: str, entries: Any) -> list[str]:
    found = [f"  {entry}" for entry in entries]
    return ["", title, *found] if found else []


def dump_graph(graph: fx.Graph, module: fx.GraphModule | None = None) -> list[str]:
    return [f"  {dump_node(node, module)}" for node in graph.nodes]


def dump_node(node: fx.Node, module: fx.GraphModule | None) -> str:
    args = ", ".join([*map(show, node.args), *(f"{key}={show(value)}" for key, value in node.kwargs.items())])
    name = getattr(node.target, "__name__", str(node.target))
    known = f" : {shape(node.meta['shape'])}" if "shape" in node.meta else ""
    if node.op == "output":
        return f"output {args}"
    if node.op == "placeholder":
        return f"%{node.name} = input{known}"
    if node.op == "get_attr":
        return f"%{node.name} = tensor {node.target}{known}"
    if node.op == "call_module" and module is not None:
        return f"%{node.name} = {type(module.get_submodule(str(node.target))).__name__} {node.target}({args})"
    return f"%{node.name} = {'.' if node.op == 'call_method' else ''}{name}({args}){known}"


def show(value: Any) -> str:
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(show, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def shape(sizes: tuple[int, ...]) -> str:
    return "(" + "x".join(map(str, sizes)) + ")"


def dump_to(folder: Path) -> Observer:
    """An observer that writes the program after every pass: 00-evaluation-form.txt, 01-canonicalise.txt, ..."""
    folder.mkdir(parents=True, exist_ok=True)

    def observer(step: Pass, program: Program) -> None:
        (folder / f"{len(program.passes) - 1:02d}-{step.name}.txt").write_text(dump(program))

    return observer
