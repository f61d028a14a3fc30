"""fold-batch-norm: per-channel scales and shifts go into the layer before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from perse_compile.pipeline import Pass
from perse_compile.program import Program
from perse_compile.rewriting import add_tensor, is_op, tidy


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold each affine into the convolution, linear layer or affine that alone feeds it.

    Given:  x -> conv2d(w, b) -> affine(scale, shift)
    Result: x -> conv2d(w * scale, b * scale + shift)
    """

    name = "fold-batch-norm"
    needs = ("canonicalise",)

    def apply(self, program: Program) -> None:
        tensors, folded = program.tensors(), Folded(program)
        for node in list(program.module.graph.nodes):
            if is_op(node, "affine"):
                before = layer_before(node)
                if before is not None:
                    scale, shift = (tensors[str(arg.target)] for arg in node.args[1:])
                    folded.fold(node, before, scale, shift)
        tidy(program)


class Folded:
    """Makes folded tensors; a layer used twice with the same norm keeps one weight."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.made: dict[tuple[str, ...], tuple[fx.Node, fx.Node]] = {}

    def fold(self, affine: fx.Node, layer: fx.Node, scale: Tensor, shift: Tensor) -> None:
        key = tuple(str(arg.target) for arg in (*layer.args[1:3], *affine.args[1:]) if isinstance(arg, fx.Node))
        if key not in self.made:
            self.made[key] = self.make(layer, scale.double(), shift.double())
        layer.args = (layer.args[0], *self.made[key], *layer.args[3:])
        affine.replace_all_uses_with(affine.args[0])  # type: ignore[arg-type]
        self.program.module.graph.erase_node(affine)

    def make(self, layer: fx.Node, scale: Tensor, shift: Tensor) -> tuple[fx.Node, fx.Node]:
        """The layer's get_attr nodes with folded tensors; new ones where others read the old."""
        tensors = self.program.tensors()
        weight_node, bias_node = layer.args[1], layer.args[2]
        assert isinstance(weight_node, fx.Node)
        weight = tensors[str(weight_node.target)].double()
        bias = tensors[str(bias_node.target)].double() if isinstance(bias_node, fx.Node) else torch.zeros_like(shift)
        base = str(weight_node.target).rpartition(".")[0] or layer.name
        first, second = ("scale", "shift") if is_op(layer, "affine") else ("weight", "bias")
        new_weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        with self.program.module.graph.inserting_before(weight_node):
            return (
                self.put(weight_node, f"{base}.{first}", new_weight.float(), f"{layer.name}_{first}"),
                self.put(bias_node, f"{base}.{second}", (bias * scale + shift).float(), f"{layer.name}_{second}"),
            )

    def put(self, node: Any, name: str, tensor: Tensor, node_name: str) -> fx.Node:
        if isinstance(node, fx.Node) and len(node.users) == 1:
            self.program.set_tensor(str(node.target), tensor)
            return node
        return add_tensor(self.program, self.free(name), tensor, node_name)

    def free(self, name: str) -> str:
        while name in self.program.tensors():
            name += "_"
        return name


def layer_before(affine: fx.Node) -> fx.Node | None:
    """The only source of the affine, looking through a permute that brings a linear layer's features to dimension 1."""
    source: Any = affine.args[0]
    if len(source.users) != 1:
        return None
    if is_op(source, "conv2d", "affine") or (is_op(source, "linear") and len(source.meta["shape"]) == 1):
        return source  # type: ignore[no-any-return]
    if is_op(source, "permute"):
        inner: Any = source.args[0]
        last = source.args[1][1] == len(source.args[1]) - 1
        if is_op(inner, "linear") and len(inner.users) == 1 and last:
            return inner  # type: ignore[no-any-return]
    return None
