"""evaluation-form: what only training needs goes away."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from perse_compile.pipeline import Pass
from perse_compile.program import Program

NOTHING_MODULES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
NOTHING_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, torch.dropout, torch.dropout_)
PROBABILITY_MODULES = (nn.Softmax, nn.LogSoftmax)
PROBABILITY_NAMES = ("softmax", "log_softmax")


@dataclass(frozen=True)
class EvaluationForm(Pass):
    """Take out dropout, stochastic depth, identities, auxiliary outputs and a last softmax.

    Given:  x -> conv -> dropout -> fc -> log_softmax -> output {"logits", "aux"}
    Result: x -> conv -> fc -> output
    """

    name = "evaluation-form"

    def apply(self, program: Program) -> None:
        graph = program.module.graph
        keep_logits(graph)
        for node in graph.nodes:
            if does_nothing(node, program.module):
                node.replace_all_uses_with(node.args[0] if node.args else node.kwargs["input"])
        drop_last_softmax(graph, program.module)
        graph.eliminate_dead_code(lambda node: changes_its_argument(node, program.module))
        program.module.recompile()


def does_nothing(node: fx.Node, module: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), NOTHING_MODULES)
    if node.op != "call_function":
        return False
    if getattr(node.target, "__name__", "") == "stochastic_depth":
        return True
    training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
    return node.target in NOTHING_FUNCTIONS and not training


def changes_its_argument(node: fx.Node, module: fx.GraphModule) -> bool:
    """In place: its effect may be read through another name, so it is not dead even if its result is."""
    if does_nothing(node, module):
        return False
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place_operator = node.target in (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    return node.op in ("placeholder", "output") or in_place_operator or name.endswith("_") or "inplace" in node.kwargs


def keep_logits(graph: fx.Graph) -> None:
    """Of a dictionary or a named tuple of outputs, the logits only."""
    output: Any = graph.output_node()
    value = output.args[0]
    if isinstance(value, dict):
        output.args = (value.get("out", value.get("logits")),)
    elif isinstance(value, tuple) and hasattr(value, "logits"):
        output.args = (value.logits,)


def drop_last_softmax(graph: fx.Graph, module: fx.GraphModule) -> None:
    """Exits work on logits; a softmax of them, or of their logarithms, is the same."""
    output: Any = graph.output_node()
    last = output.args[0]
    if not isinstance(last, fx.Node) or len(last.users) != 1:
        return
    dim: Any
    if last.op == "call_module":
        layer = module.get_submodule(str(last.target))
        drop, dim = isinstance(layer, PROBABILITY_MODULES), getattr(layer, "dim", None)
    else:
        name = last.target if last.op == "call_method" else getattr(last.target, "__name__", "")
        drop, dim = name in PROBABILITY_NAMES, last.kwargs.get("dim", last.args[1] if len(last.args) > 1 else None)
    if drop and dim in (None, 1, -1):
        output.args = (last.args[0] if last.args else last.kwargs["input"],)
