"""insert-exits: a small classifier at every tap; the network's own becomes the last of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from perse_compile.macs import cumulative_macs
from perse_compile.ops import OPS
from perse_compile.pipeline import Pass
from perse_compile.program import Exit, Program, widened
from perse_compile.rewriting import add_tensor, is_op, output, tidy
from perse_compile.shapes import annotate_shapes

FINAL = "final"
SPREAD = 0.01  # standard deviation of new weights


@dataclass(frozen=True)
class InsertExits(Pass):
    """Attach a head at each tap, and make a head of the network's own classifier. Each gets `spare` outputs more,
    which cannot win until a person teaches them a class.

    Given:  x -> layer1 -> layer2 -> linear -> output
    Result: x -> layer1 -> layer2 -> head (final) -> output (head0, head)
                      \\-> head0
    """

    name = "insert-exits"
    needs = ("place-exits",)
    seed: int = 0
    spare: int = 0

    def apply(self, program: Program) -> None:
        graph, classes = program.module.graph, len(program.classes)
        logits: Any = output(graph).args[0]
        program.spare = self.spare
        generator = torch.Generator().manual_seed(self.seed)
        final, tap, *own = own_classifier(program, logits)
        heads = []
        for exit in program.exits:
            weight = torch.randn(exit.features, classes, generator=generator) * SPREAD
            inner = projection(exit.projected, exit.features, generator) if exit.projected else None
            heads.append(attach(program, exit, program.node(exit.tap), weight, torch.zeros(classes), inner))
        program.exits = [*program.exits, final]
        heads.append(attach(program, final, tap, *own))
        output(graph).args = (tuple(heads),)
        tidy(program)
        annotate_shapes(program)


def own_classifier(program: Program, logits: fx.Node) -> tuple[Exit, fx.Node, Tensor, Tensor]:
    """A last linear layer as a head; any other ending gets a head that changes nothing."""
    tensors, macs = program.tensors(), cumulative_macs(program.module.graph)
    if is_op(logits, "linear") and len(logits.users) == 1:
        tap: Any = logits.args[0]
        weight = tensors[str(logits.args[1].target)].t().contiguous()  # type: ignore[union-attr]
        bias_node = logits.args[2]
        bias = tensors[str(bias_node.target)] if isinstance(bias_node, fx.Node) else torch.zeros(weight.shape[1])
    else:
        tap, weight, bias = logits, torch.eye(len(program.classes)), torch.zeros(len(program.classes))
    if len(tap.meta["shape"]) != 1 or tap.op != "call_function":
        tap, weight, bias = logits, torch.eye(len(program.classes)), torch.zeros(len(program.classes))
    return Exit(FINAL, tap.name, 1, tap.meta["shape"][0], macs[tap.name], enabled=True), tap, weight, bias.clone()


def projection(means: int, features: int, generator: torch.Generator) -> Tensor:
    """Random, (features, means): a relu behind it keeps the spread of standardised means (He et al. 2015)."""
    return torch.randn(features, means, generator=generator) * math.sqrt(2 / means)


def attach(
    program: Program, exit: Exit, tap: fx.Node, weight: Tensor, bias: Tensor, inner: Tensor | None = None
) -> fx.Node:
    """pool_features, a bottleneck's projection and head right before the output: the backbone stays contiguous."""
    graph = program.module.graph
    weight, bias = widened(weight, bias, program.spare)
    with graph.inserting_before(output(graph)):
        features = graph.create_node(
            "call_function", OPS["pool_features"], (tap, exit.grid), name=f"{exit.name}_features"
        )
        if inner is not None:
            features = project(program, exit, features, inner)
        values = {
            "shift": torch.zeros(exit.features),
            "scale": torch.ones(exit.features),
            "weight": weight,
            "bias": bias,
        }
        tensors = [add_tensor(program, f"{exit.name}.{leaf}", t, f"{exit.name}_{leaf}") for leaf, t in values.items()]
        return graph.create_node("call_function", OPS["head"], (features, *tensors), name=f"{exit.name}_logits")


def project(program: Program, exit: Exit, means: fx.Node, weight: Tensor) -> fx.Node:
    """relu(linear(means)). Its tensors are not named as the head's: what personalising may change is told by names."""
    graph, name = program.module.graph, f"{exit.name}_projection"
    values = {"weight": weight, "bias": torch.zeros(exit.features)}
    tensors = [add_tensor(program, f"{name}.{leaf}", t, f"{name}_{leaf}") for leaf, t in values.items()]
    linear = graph.create_node("call_function", OPS["linear"], (means, *tensors), name=name)
    return graph.create_node("call_function", OPS["relu"], (linear,), name=f"{exit.name}_narrow")
