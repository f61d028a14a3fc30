"""What holds of every program, given the passes that have run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from perse_compile.errors import VerifyError
from perse_compile.ops import OPS
from perse_compile.program import SPARE_LOGIT, Exit, Program, Stage


def verify(program: Program) -> None:
    """Raise VerifyError unless the program keeps the promises of the passes it has been through."""
    check_graph(program)
    for name, check in (
        ("canonicalise", check_canonical),
        ("propagate-shapes", check_shapes),
        ("find-cut-points", check_cuts),
        ("insert-exits", check_exits),
        ("split-stages", check_stages),
        ("build-training-graph", check_training),
    ):
        if name in program.passes:
            check(program)


def check_graph(program: Program) -> None:
    graph = program.module.graph
    try:
        graph.lint()
    except (RuntimeError, ValueError) as error:
        raise VerifyError(f"the graph of {program.name} is broken: {error}") from error
    counts = {op: sum(node.op == op for node in graph.nodes) for op in ("placeholder", "output")}
    if counts != {"placeholder": 1, "output": 1}:
        raise VerifyError(
            f"{program.name} has {counts['placeholder']} inputs and {counts['output']} outputs; it must have one each"
        )


def check_canonical(program: Program) -> None:
    for node in program.module.graph.nodes:
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            raise VerifyError(
                f"node {node.name} is a {node.op}; after canonicalise only perse_compile.ops may be called"
            )
        if node.op == "call_function" and OPS.get(getattr(node.target, "__name__", "")) is not node.target:
            raise VerifyError(f"node {node.name} calls {node.target}, which is not an operation of perse_compile.ops")
        if node.kwargs or not all(is_plain(arg) for arg in node.args):
            raise VerifyError(f"node {node.name} has arguments that cannot be saved: {node.args} {node.kwargs}")


def is_plain(arg: Any) -> bool:
    if isinstance(arg, (tuple, list)):
        return all(is_plain(item) for item in arg)
    return arg is None or isinstance(arg, fx.Node) or type(arg) in (int, float, bool, str)


def check_shapes(program: Program) -> None:
    for node in program.module.graph.nodes:
        if node.op != "output" and "shape" not in node.meta:
            raise VerifyError(f"node {node.name} has no shape; run propagate-shapes after changing the graph")
    for name, tensor in program.tensors().items():
        if tensor.dtype != torch.float32:
            raise VerifyError(f"tensor {name} is {tensor.dtype}, not float32")


def check_cuts(program: Program) -> None:
    shapes = {node.name: node.meta["shape"] for node in program.module.graph.nodes if "shape" in node.meta}
    for cut in program.cuts:
        if shapes.get(cut.node) != cut.shape or len(cut.shape) != 3:
            raise VerifyError(f"cut point {cut.node} has shape {cut.shape}, its node {shapes.get(cut.node)}")


def check_exits(program: Program) -> None:
    heads: Any = program.module.graph.output_node().args[0]
    if not isinstance(heads, tuple) or len(heads) != len(program.exits):
        raise VerifyError(f"{program.name} must return one tensor of logits for each of its {len(program.exits)} exits")
    for exit, head in zip(program.exits, heads, strict=True):
        check_exit(program, exit, head)
    if program.exits[-1].name != "final" or not program.exits[-1].enabled:
        raise VerifyError(f"the last exit of {program.name} must be an enabled one called final")
    if len({exit.name for exit in program.exits}) != len(program.exits):
        raise VerifyError(f"two exits of {program.name} have one name")


def check_exit(program: Program, exit: Exit, head: fx.Node) -> None:
    features: Any = head.args[0]
    if exit.projected:
        features = check_projection(program, exit, features)
    if head.target is not OPS["head"] or features.target is not OPS["pool_features"]:
        raise VerifyError(f"exit {exit.name} must end in a head that reads pool_features")
    if features.args[0].name != exit.tap or features.args[1] != exit.grid:
        raise VerifyError(
            f"exit {exit.name} reads {features.args[0].name} on grid {features.args[1]}, not {exit.tap} on {exit.grid}"
        )
    tensors, length, classes = program.tensors(), exit.features, program.outputs
    for leaf, shape in (
        ("shift", (length,)),
        ("scale", (length,)),
        ("weight", (length, classes)),
        ("bias", (classes,)),
    ):
        tensor = tensors.get(f"{exit.name}.{leaf}")
        if tensor is None or tuple(tensor.shape) != shape:
            raise VerifyError(f"tensor {exit.name}.{leaf} must have shape {shape}")
    known = len(program.classes)
    spare_weight, spare_bias = tensors[f"{exit.name}.weight"][:, known:], tensors[f"{exit.name}.bias"][known:]
    if bool(spare_weight.any()) or not bool((spare_bias == SPARE_LOGIT).all()):
        raise VerifyError(f"spare outputs of exit {exit.name} must have weight 0 and bias {SPARE_LOGIT:g}")
    if exit.temperature <= 0:
        raise VerifyError(f"exit {exit.name} has temperature {exit.temperature}; it must be positive")


def check_projection(program: Program, exit: Exit, narrow: Any) -> Any:
    """What a bottleneck's projection reads."""
    linear = narrow.args[0]
    if narrow.target is not OPS["relu"] or linear.target is not OPS["linear"]:
        raise VerifyError(f"exit {exit.name} is a bottleneck: its head must read relu(linear(pool_features))")
    weight = program.tensors().get(f"{exit.name}_projection.weight")
    if weight is None or tuple(weight.shape) != (exit.features, exit.projected):
        raise VerifyError(f"tensor {exit.name}_projection.weight must have shape {(exit.features, exit.projected)}")
    return linear.args[0]


def check_stages(program: Program) -> None:
    if [(s.name, s.output) for s in program.stages] != [(e.name, e.tap) for e in program.exits]:
        raise VerifyError(f"{program.name} must have one stage for each exit, ending at its tap")
    graph = program.module.graph
    seen: set[str] = set()
    for stage in program.stages:
        for node, source in crossing(graph, stage):
            raise VerifyError(f"node {node} of stage {stage.name} reads {source}, which only an earlier stage has")
        calls = {node.name for node in graph.nodes if node.name in set(stage.nodes) and node.op == "call_function"}
        if calls & seen:
            raise VerifyError(f"node {min(calls & seen)} is in two stages")
        seen |= calls


def crossing(graph: fx.Graph, stage: Stage) -> Iterator[tuple[str, str]]:
    """Reads of a stage that are neither its own nodes nor its input."""
    own = set(stage.nodes)
    for node in graph.nodes:
        if node.name in own:
            yield from (
                (node.name, n.name) for n in node.all_input_nodes if n.name not in own and n.name != stage.input
            )


def check_training(program: Program) -> None:
    if set(program.training) != {exit.name for exit in program.exits}:
        raise VerifyError(f"{program.name} must have one training graph for each exit")
    for name, graph in program.training.items():
        graph.lint()
        if any(node.op not in ("placeholder", "call_function", "output") for node in graph.nodes):
            raise VerifyError(f"the training graph of {name} may only read its inputs")
