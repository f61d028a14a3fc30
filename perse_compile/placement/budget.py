"""Which point of the front is wanted, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perse_compile.errors import DataError
from perse_compile.placement.costs import Costs
from perse_compile.placement.points import Point

MAX_DROP = 0.01  # without any other wish, as train-exits
WHOLE = 1e-9


@dataclass(frozen=True)
class Budget:
    """Of the search's images. What is None is not asked for."""

    max_ms: float | None = None  # mean
    max_cost: float | None = None  # mean, as a share of the full network's
    max_drop: float | None = None  # of accuracy against the full network

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(front: Sequence[Point], full: float, costs: Costs, budget: Budget) -> tuple[int, str]:
    """A point of the front and why. Raises DataError when no point will do, naming the nearest.

    With a limit on the drop the cheapest point within all limits; else the most accurate. `full`: accuracy of the
    full network.
    """
    if budget.max_ms is not None and costs.full_ms is None:
        raise DataError("--max-latency needs measured times; give --costs ARTIFACT, or --max-cost instead")
    if budget == Budget():
        budget = Budget(max_drop=MAX_DROP)
    limits = [budget.max_cost, None if budget.max_ms is None else budget.max_ms / (costs.full_ms or 1.0)]
    most = min((limit for limit in limits if limit is not None), default=float("inf"))
    cheap = [i for i, point in enumerate(front) if point.search.cost <= most + WHOLE]
    if not cheap:
        raise DataError(
            f"no cascade costs at most {told(most, costs)}; the cheapest costs {told(front[0].search.cost, costs)}"
            f" and loses {points_of(full - front[0].search.accuracy)}"
        )
    if budget.max_drop is None:
        return cheap[-1], f"the most accurate that costs at most {told(most, costs)}"
    within = [i for i in cheap if front[i].search.accuracy >= full - budget.max_drop - WHOLE]
    if within:
        also = "" if most == float("inf") else f" and costs at most {told(most, costs)}"
        return within[0], f"the cheapest that loses at most {points_of(budget.max_drop)}{also}"
    best = front[cheap[-1]]
    enough = [point for point in front if point.search.accuracy >= full - budget.max_drop - WHOLE]
    nearest = f"; losing so little costs {told(enough[0].search.cost, costs)}" if enough else ""
    raise DataError(
        f"no cascade loses at most {points_of(budget.max_drop)} and costs at most {told(most, costs)}: at that cost the"
        f" best loses {points_of(full - best.search.accuracy)}{nearest}"
    )


def told(share: float, costs: Costs) -> str:
    """A cost in the unit that it was measured in."""
    return f"{100 * share:.1f} %" if costs.full_ms is None else f"{share * costs.full_ms:.3f} ms ({100 * share:.1f} %)"


def points_of(share: float) -> str:
    """A difference of accuracy."""
    return f"{100 * share:.1f} points"
