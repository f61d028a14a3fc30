"""build-training-graph: the loss that personalising a head makes smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from perse_compile.ops import OPS
from perse_compile.pipeline import Pass
from perse_compile.program import Program

INPUTS = (
    "features", "shift", "scale", "weight", "bias", "anchor_weight", "anchor_bias",
    "hard", "soft", "inverse_temperature", "decay",
)  # fmt: skip


@dataclass(frozen=True)
class BuildTrainingGraph(Pass):
    """Per exit a graph of one batch's loss, as perse_step in runtime/plan.h has it; Relax differentiates it.

    Given:  exits with heads
    Result: training[exit] = -sum(hard * log_softmax(z)) - sum(soft * log_softmax(z / T)) + decay/2 * |p - anchor|^2
    """

    name = "build-training-graph"
    needs = ("insert-exits",)

    def apply(self, program: Program) -> None:
        program.training = {exit.name: loss_graph() for exit in program.exits}


def loss_graph() -> fx.Graph:
    """inverse_temperature and decay have shape (1,); the loss is a scalar."""
    graph = fx.Graph()
    given = {name: graph.placeholder(name) for name in INPUTS}

    def call(op: str, *args: Any, name: str) -> fx.Node:
        return graph.create_node("call_function", OPS[op], args, name=name)

    def cross_entropy(target: str, logits: fx.Node) -> fx.Node:
        log_p = call("log_softmax", logits, name=f"{target}_log_p")
        return call("total", call("mul", given[target], log_p, name=f"{target}_terms"), name=f"{target}_sum")

    def distance(leaf: str) -> fx.Node:
        off = call("sub", given[leaf], given[f"anchor_{leaf}"], name=f"{leaf}_off")
        squares = call("mul", off, off, name=f"{leaf}_squares")
        return call("total", call("mul", squares, given["decay"], name=f"{leaf}_decayed"), name=f"{leaf}_distance")

    z = call("head", *(given[name] for name in INPUTS[:5]), name="z")
    tempered = call("mul", z, given["inverse_temperature"], name="z_tempered")
    likelihood = call("add", cross_entropy("hard", z), cross_entropy("soft", tempered), name="likelihood")
    penalty = call("mul", call("add", distance("weight"), distance("bias"), name="distance"), 0.5, name="penalty")
    graph.output(call("sub", penalty, likelihood, name="loss"))
    return graph
