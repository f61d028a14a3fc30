"""Smaller networks without a choice, which a cascade must beat: truncated at a tap, or given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perse_compile.errors import DataError
from perse_compile.placement.costs import Costs
from perse_compile.placement.points import Point
from perse_compile.placement.records import Answers


@dataclass(frozen=True)
class Static:
    """A network that answers every image at the same cost."""

    name: str
    cost: float  # as a share of the full network's
    accuracy: float


def truncations(taps: Sequence[str], answers: Answers, costs: Costs) -> list[Static]:
    """The backbone up to each candidate, with the head there."""
    total = costs.backbone + costs.heads
    return [
        Static(tap, float(cost), float(right.mean()))
        for tap, cost, right in zip(taps, total, answers.right[:-1], strict=True)
    ]


def parse_static(text: str, costs: Costs) -> Static:
    """ACCURACY@COST: 0.902@0.4, or 0.902@3.1ms where costs are measured. Raises DataError."""
    accuracy, _, cost = text.partition("@")
    timed = cost.endswith("ms")
    try:
        right, much = float(accuracy), float(cost.removesuffix("ms"))
    except ValueError:
        right, much = -1.0, -1.0
    if not 0 <= right <= 1 or not 0 < much < float("inf"):
        raise DataError(f"--static {text!r} is not ACCURACY@COST; give the like of 0.902@0.4, or 0.902@3.1ms")
    if timed and costs.full_ms is None:
        raise DataError(f"--static {text!r} is in milliseconds and nothing was measured; give --costs ARTIFACT")
    return Static(f"the static network {text}", much / costs.full_ms if timed and costs.full_ms else much, right)


def cheapest(found: Sequence[Static], accuracy: float) -> Static | None:
    """With that accuracy at least."""
    return min((one for one in found if one.accuracy >= accuracy - 1e-9), key=lambda one: one.cost, default=None)


def beats(one: Static, point: Point) -> bool:
    """As good in both, and better in one."""
    there = point.search
    return (
        one.cost <= there.cost
        and one.accuracy >= there.accuracy
        and (one.cost < there.cost or one.accuracy > there.accuracy)
    )
