"""What runs on features rather than images: pools, heads, and a head's training step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import tvm
from torch import fx
from tvm import relax, te, tirx

from perse_compile.errors import LoweringError
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.fuse import op_of
from perse_compile.lowering.kernels.scope import KernelCall, Stored
from perse_compile.lowering.plan import Line, prim_funcs, read_line
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.workload import of_head
from perse_compile.targets import Target

STEP_INPUTS = (
    "features", "shift", "scale", "weight", "bias", "anchor_weight", "anchor_bias",
    "hard", "soft", "inverse_temperature", "decay",
)  # fmt: skip
UPDATE_INPUTS = ("parameter", "gradient", "velocity", "learning_rate", "momentum")


def head_inputs(features: int, classes: int) -> list[Stored]:
    """features, shift, scale, weight, bias: what the compiled head takes."""
    shapes = {
        "features": (1, features),
        "shift": (features,),
        "scale": (features,),
        "weight": (features, classes),
        "bias": (classes,),
    }
    return [Stored(name, shape, tuple(range(len(shape)))) for name, shape in shapes.items()]


def lower_head(features: int, classes: int, choices: Choices) -> tuple[list[KernelCall], Stored]:
    """((features - shift) * scale) @ weight + bias as two kernels."""
    f, shift, scale, weight, bias = [te.placeholder(s.shape, name=s.name) for s in head_inputs(features, classes)]
    standard = te.compute((1, features), lambda n, i: (f[n, i] - shift[i]) * scale[i], name="standard")
    first = KernelCall(
        "standardise",
        te.create_prim_func([f, shift, scale, standard]),
        partial(elementwise.schedule, target=choices.target),
        [("features", (1, features)), ("shift", (features,)), ("scale", (features,))],
        "standard",
        (1, features),
    )
    x = te.placeholder((1, features), name="standard")
    r = te.reduce_axis((0, features), "r")
    acc = te.compute((classes,), lambda k: te.sum(x[0, r] * weight[r, k], axis=r), name="acc")
    logits = te.compute((1, classes), lambda n, k: acc[k] + bias[k], name="logits")
    knobs = choices.decide(of_head(features, classes), elementwise.HeadKnobs)
    second = KernelCall(
        "head",
        te.create_prim_func([x, weight, bias, logits]),
        partial(elementwise.schedule_product, knobs=knobs, target=choices.target),
        [("standard", (1, features)), ("weight", (features, classes)), ("bias", (classes,))],
        "logits",
        (1, classes),
    )
    return [first, second], Stored("logits", (1, classes), (0, 1))


@dataclass(frozen=True)
class TrainingStep:
    """One head's step: `gradient` takes STEP_INPUTS, gives loss, d weight, d bias; updates take UPDATE_INPUTS."""

    gradient: Line
    update_weight: Line
    update_bias: Line
    kernels: dict[str, tirx.PrimFunc]


def lower_training(loss: fx.Graph, name: str, features: int, classes: int, batch: int, target: Target) -> TrainingStep:
    """Loss, gradients of weight and bias, and their update, as kernels for the target.

    The loss graph comes from the build-training-graph pass; Relax differentiates it. The update is SGD with
    momentum as PyTorch writes it: v = momentum*v + gradient; p = p - learning_rate*v.
    """
    builder = relax.BlockBuilder()
    parameters = _step_variables(features, classes, batch)
    with builder.function("loss", list(parameters.values())):
        with builder.dataflow():
            result = builder.emit_output(_translate(loss, parameters, builder))
        builder.emit_func_output(result)
    module = builder.get()
    wanted = [module["loss"].params[STEP_INPUTS.index(p)] for p in ("weight", "bias")]
    module = relax.transform.Gradient("loss", require_grads=wanted, target_index=0)(module)
    functions = {name: module["loss_adjoint"].with_attr("global_symbol", name)}
    for parameter, shape in (("weight", (features, classes)), ("bias", (classes,))):
        symbol = f"{name}_update_{parameter}"
        functions[symbol] = _update_function(shape).with_attr("global_symbol", symbol)
    module = tvm.IRModule(functions)
    module = tvm.ir.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination([*functions]),
        ]
    )(module)
    return _compiled(module, name, target)


def _step_variables(features: int, classes: int, batch: int) -> dict[str, relax.Var]:
    f, k, b = features, classes, batch
    shapes = ((b, f), (f,), (f,), (f, k), (k,), (f, k), (k,), (b, k), (b, k), (1,), (1,))
    return {n: relax.Var(n, relax.TensorType(s, "float32")) for n, s in zip(STEP_INPUTS, shapes, strict=True)}


def _translate(graph: fx.Graph, parameters: dict[str, relax.Var], builder: relax.BlockBuilder) -> relax.Expr:
    """A loss graph of perse_compile.ops as Relax operations."""
    values: dict[fx.Node, relax.Expr] = {}

    def read(argument: Any) -> relax.Expr:
        return values[argument] if isinstance(argument, fx.Node) else relax.const(float(argument), "float32")

    for node in graph.nodes:
        if node.op == "placeholder":
            if node.name not in parameters:
                raise LoweringError(
                    f"training graph takes an unknown input {node.name}; known: {', '.join(STEP_INPUTS)}"
                )
            values[node] = parameters[node.name]
        elif node.op == "output":
            return values[node.args[0]]
        else:
            function = _RELAX.get(op_of(node))
            if function is None:
                raise LoweringError(f"training graph: no Relax operation for {op_of(node)}")
            values[node] = builder.emit(function(*[read(a) for a in node.args]))
    raise LoweringError("training graph has no output")


def _head(features: Any, shift: Any, scale: Any, weight: Any, bias: Any) -> relax.Expr:
    standard = relax.op.multiply(relax.op.subtract(features, shift), scale)
    return relax.op.add(relax.op.matmul(standard, weight), bias)


_RELAX: dict[str, Any] = {
    "add": relax.op.add,
    "sub": relax.op.subtract,
    "mul": relax.op.multiply,
    "matmul": relax.op.matmul,
    "log_softmax": lambda x: relax.op.nn.log_softmax(x, axis=-1),
    "total": relax.op.sum,
    "relu": relax.op.nn.relu,
    "head": _head,
}


def _update_function(shape: tuple[int, ...]) -> relax.Function:
    shapes = (shape, shape, shape, (1,), (1,))
    p, g, v, rate, momentum = (
        relax.Var(n, relax.TensorType(s, "float32")) for n, s in zip(UPDATE_INPUTS, shapes, strict=True)
    )
    builder = relax.BlockBuilder()
    with builder.function("update", [p, g, v, rate, momentum]):
        with builder.dataflow():
            velocity = builder.emit(relax.op.add(relax.op.multiply(v, momentum), g))
            out_v = builder.emit_output(velocity)
            out_p = builder.emit_output(relax.op.subtract(p, relax.op.multiply(velocity, rate)))
        builder.emit_func_output(relax.Tuple([out_p, out_v]))
    return builder.get()["update"]


def _compiled(module: tvm.IRModule, prefix: str, target: Target) -> TrainingStep:
    """Schedule every kernel under a name of its own and read the lines that call them."""
    names = {hint: f"perse_k_{prefix}_{hint}" for hint in prim_funcs(module)}
    kernels = {
        names[hint]: elementwise.schedule_any(
            func.without_attr("op_pattern").with_attr("global_symbol", "main"), target
        )
        for hint, func in prim_funcs(module).items()
    }
    gradient = read_line(module, prefix, names)
    update_weight = read_line(module, f"{prefix}_update_weight", names)
    update_bias = read_line(module, f"{prefix}_update_bias", names)
    return TrainingStep(gradient, update_weight, update_bias, kernels)
