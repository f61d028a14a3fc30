"""What the backbone costs up to a candidate, and a head there: counted, or measured on an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.placement.measured import Measured
from perse_compile.program import CutPoint, Exit


@dataclass(frozen=True)
class Costs:
    """As shares of the full network: its backbone and its own classifier, without early exits, are 1."""

    backbone: NDArray[np.float64]  # [M] up to each candidate
    heads: NDArray[np.float64]  # [M]
    source: str  # where they come from
    full_ms: float | None = None  # None when they are counted, not measured

    def as_dict(self) -> dict[str, Any]:
        return {"source": self.source, "measured": self.full_ms is not None, "full_ms": self.full_ms}


def head_macs(cut: CutPoint, exit: Exit, classes: int) -> int:
    """Pool and head, as perse_compile/macs.py counts them."""
    return prod(cut.shape) + exit.features * classes


def by_macs(cuts: Sequence[CutPoint], exits: Sequence[Exit], classes: int) -> Costs:
    """Multiply-accumulates. `exits`: of the candidates, and the final one."""
    full = float(exits[-1].macs + exits[-1].features * classes)
    heads = [head_macs(cut, exit, classes) / full for cut, exit in zip(cuts, exits[:-1], strict=True)]
    return Costs(np.array([cut.macs for cut in cuts]) / full, np.array(heads), "multiply-accumulates")


def by_time(cuts: Sequence[CutPoint], exits: Sequence[Exit], classes: int, seen: Measured) -> Costs:
    """Milliseconds between the taps of an artifact, in proportion to multiply-accumulates within a stage.

    A head that the artifact has, at that tap and of that size, takes what it took there; others by a line through
    those that it has (milliseconds by multiply-accumulates, neither part negative).
    """
    ends = seen.input_ms + np.concatenate([[0.0], np.cumsum([exit.stage_ms for exit in seen.exits])])
    backbone = np.interp([cut.macs for cut in cuts], [0, *(exit.macs for exit in seen.exits)], ends)
    timed = {(exit.tap, exit.head_macs): exit.head_ms for exit in seen.exits[:-1]}
    fixed, each = line([(exit.head_macs, exit.head_ms) for exit in seen.exits])
    work = [head_macs(cut, exit, classes) for cut, exit in zip(cuts, exits[:-1], strict=True)]
    heads = [timed.get((cut.node, macs), fixed + each * macs) for cut, macs in zip(cuts, work, strict=True)]
    full = float(ends[-1] + seen.exits[-1].head_ms)
    return Costs(backbone / full, np.array(heads) / full, seen.source, full)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(at 0, slope) of least squares, both at least 0."""
    x, y = np.array(points, float).T
    away = x - x.mean()
    slope = float((away * y).sum() / (away**2).sum()) if away.any() else 0.0
    at_zero = float(y.mean() - slope * x.mean())
    if slope < 0 or (slope == 0 and not x.any()):
        return float(y.mean()), 0.0
    if at_zero < 0 or not away.any():
        return 0.0, float((x * y).sum() / (x * x).sum())
    return at_zero, slope
