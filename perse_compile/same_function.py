"""Observer: after every pass that rewrites the backbone, the network still computes what the traced one does."""

from __future__ import annotations

import copy

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
            off = difference(found, self.expected)
            if not off <= TOLERANCE:
                rounding = difference(found, answer(program, torch.float64))
                if rounding > max(TOLERANCE, off) / 10:
                    raise VerifyError(
                        f"{program.name} cannot be checked: rounding to float32 alone changes its answer to a noisy"
                        f" image by {rounding:.1%} of the greatest logit; give it trained weights, not random ones"
                    )
                raise VerifyError(
                    f"{program.name} computes something else after {step.name} (relative difference {off:.2g});"
                    " its forward may change a tensor in place through a view: write it without"
                )


def difference(a: Tensor, b: Tensor) -> float:
    """Greatest, as a share of the greatest logit."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-6))


def answer(program: Program, precision: torch.dtype = torch.float32) -> Tensor:
    """Logits of the network's own classes: of the last exit, or of the network while it has no exits."""
    module = program.module if precision == torch.float32 else copy.deepcopy(program.module).to(precision)
    with torch.no_grad():
        result = module(noise(program.input).to(precision))
    if isinstance(result, tuple):
        result = result[-1]
    if not isinstance(result, Tensor) or result.dim() != 2:
        raise VerifyError(f"{program.name} must return one tensor of logits, (batch, classes)")
    return result[:, : len(program.classes)]


def noise(spec: InputSpec) -> Tensor:
    """One fixed image, (1,C,H,W)."""
    return torch.randn(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
