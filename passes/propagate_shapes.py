"""propagate-shapes: every node learns its shape, and every tensor is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perse_compile.errors import PassError
from perse_compile.pipeline import Pass
from perse_compile.program import Program
from perse_compile.shapes import annotate_shapes


@dataclass(frozen=True)
class PropagateShapes(Pass):
    """Set node.meta["shape"], without the batch; refuse weights that are not finite float32.

    Given:  x -> conv -> output
    Result: x (3, 224, 224) -> conv (64, 112, 112) -> output
    """

    name = "propagate-shapes"
    needs = ("canonicalise",)

    def apply(self, program: Program) -> None:
        for name, tensor in program.tensors().items():
            if tensor.dtype != torch.float32:
                raise PassError(f"tensor {name} is {tensor.dtype}; only float32 can be compiled: use model.float()")
            if not bool(torch.isfinite(tensor).all()):
                raise PassError(f"tensor {name} holds NaN or infinity; the weights are damaged")
        annotate_shapes(program)
