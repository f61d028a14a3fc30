"""Observer: after every pass that rewrites the backbone, the network still computes what the traced one does."""

from __future__ import annotations

import torch
from torch import Tensor

from perse_compile.errors import VerifyError
from perse_compile.pipeline import Pass
from perse_compile.program import InputSpec, Program

REWRITING = ("canonicalise", "fold-batch-norm", "insert-exits")
TOLERANCE = 1e-3  # of the largest logit


class SameFunction:
    """Remembers the answer to one fixed noisy image after evaluation-form, and compares from then on."""

    def __init__(self) -> None:
        self.expected: Tensor | None = None

    def __call__(self, step: Pass, program: Program) -> None:
        if step.name == "evaluation-form":
            self.expected = answer(program)
            if not bool(self.expected.isfinite().all()):
                raise VerifyError(f"{program.name} answers NaN or infinity to a noisy image; are its weights whole?")
        elif step.name in REWRITING and self.expected is not None:
            found = answer(program)
            off = float((found - self.expected).abs().max() / self.expected.abs().max().clamp_min(1e-6))
            if not off <= TOLERANCE:
                raise VerifyError(
                    f"{program.name} computes something else after {step.name} (relative difference {off:.2g});"
                    " its forward may change a tensor in place through a view: write it without"
                )


def answer(program: Program) -> Tensor:
    """Logits of the network's own classes: of the last exit, or of the network while it has no exits."""
    with torch.no_grad():
        result = program.module(noise(program.input))
    if isinstance(result, tuple):
        result = result[-1]
    if not isinstance(result, Tensor) or result.dim() != 2:
        raise VerifyError(f"{program.name} must return one tensor of logits, (batch, classes)")
    return result[:, : len(program.classes)]


def noise(spec: InputSpec) -> Tensor:
    """One fixed image, (1,C,H,W)."""
    return torch.randn(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
