"""A cascade and its figures, on whatever images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perse_compile.placement.costs import Costs
from perse_compile.placement.records import Answers
from perse_compile.placement.search import Found


@dataclass(frozen=True)
class Early:
    """An early exit of a cascade."""

    candidate: int
    tap: str
    threshold: float
    temperature: float


@dataclass(frozen=True)
class Figures:
    """On some images."""

    cost: float  # mean, as a share of the full network's
    accuracy: float
    shares: list[float]  # of the images, answered by each early exit and by the final one


@dataclass(frozen=True)
class Point:
    """One cascade of the front."""

    exits: list[Early]
    search: Figures  # what it was chosen by
    report: Figures  # of images that neither trained heads nor took part in the search

    @property
    def static(self) -> bool:
        """A smaller network without a choice: the backbone up to a tap, and the head there."""
        return len(self.exits) == 1 and self.exits[0].threshold == 0

    def as_dict(self, full_ms: float | None) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "exits": [{"tap": e.tap, "threshold": e.threshold, "temperature": e.temperature} for e in self.exits],
            "static": self.static,
        }
        for name in ("search", "report"):
            figures: Figures = getattr(self, name)
            found[name] = {"cost": figures.cost, "accuracy": figures.accuracy, "shares": figures.shares}
            if full_ms is not None:
                found[name]["ms"] = figures.cost * full_ms
        return found


def limit(threshold: float) -> str:
    """In words; of a thousand classes a confidence may be small."""
    return "always" if threshold == 0 else f"{threshold:.2f}" if threshold >= 0.1 else f"{threshold:.2g}"


def figures(exits: Sequence[Early], answers: Answers, costs: Costs) -> Figures:
    """What a cascade does, image by image."""
    left = np.ones(answers.right.shape[1], bool)
    cost, right, shares = 0.0, 0, []
    for exit in exits:
        cost += float(left.sum()) * float(costs.heads[exit.candidate])
        taken = left & (answers.sure[exit.candidate] >= exit.threshold)
        cost += float(taken.sum()) * float(costs.backbone[exit.candidate])
        right += int(answers.right[exit.candidate][taken].sum())
        shares.append(float(taken.mean()))
        left &= ~taken
    count = len(left)
    right += int(answers.right[-1][left].sum())
    return Figures((cost + float(left.sum())) / count, right / count, [*shares, float(left.mean())])


def points(
    found: Found, taps: Sequence[str], temperatures: Sequence[float], search: Answers, report: Answers, costs: Costs
) -> list[Point]:
    """The front, from the cheapest to the most accurate."""
    made = []
    for chain in found.chains:
        exits = []
        for option in chain:
            candidate = int(found.options.candidate[option])
            threshold = float(found.options.threshold[option])
            exits.append(Early(candidate, taps[candidate], threshold, temperatures[candidate]))
        made.append(Point(exits, figures(exits, search, costs), figures(exits, report, costs)))
    return made
