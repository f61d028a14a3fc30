"""Place exits where they pay on a labelled set: the story, and the program that comes of it.

1. candidates: the cut points that may have an exit, what the backbone costs up to each, and the head there
2. features: one pass of the backbone over the images
3. records: a head at every candidate, and what it answers on images that it did not learn from
4. search: the front of all cascades, exactly
5. choose: the point of the front that the budget asks for
6. commit: its exits, with the heads, temperatures and thresholds found
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from perse_compile.passes import exits_pipeline
from perse_compile.passes.head_types import AUTO, HeadWish
from perse_compile.personalise.data import Images, unnamed
from perse_compile.personalise.levels import measure_levels
from perse_compile.personalise.train_exits import write_head
from perse_compile.pipeline import Observer, run
from perse_compile.placement.budget import Budget, choose
from perse_compile.placement.candidates import candidates, with_linear_heads
from perse_compile.placement.costs import Costs, by_macs, by_time
from perse_compile.placement.features import extract, with_exits_everywhere
from perse_compile.placement.measured import Measured
from perse_compile.placement.points import Figures, Point, figures, points
from perse_compile.placement.records import Records, record
from perse_compile.placement.search import Found, search
from perse_compile.placement.split import FOLDS, labelled, split
from perse_compile.placement.static import Static, parse_static, truncations
from perse_compile.placement.verdict import verdict
from perse_compile.program import Program

EXITS = 3  # at most, unless a number is given
KEPT = 20  # points of the front in a program's provenance
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wishes:
    """What the user asks for."""

    budget: Budget = field(default_factory=Budget)
    exits: int = EXITS  # at most
    names: tuple[str, ...] | None = None  # candidates; all cut points by default
    static: tuple[str, ...] = ()  # ACCURACY@COST
    seed: int = 0
    head: HeadWish = AUTO  # of a linear type


@dataclass(frozen=True)
class Placement:
    """All that was found."""

    data: str
    images: int
    report_images: int
    seed: int
    costs: Costs
    candidates: list[Static]  # truncated there: cost and accuracy
    front: list[Point]
    full: tuple[Figures, Figures]  # of the full network alone, in the search and on the report's images
    chosen: int
    why: str
    verdict: list[str]
    budget: Budget
    found: Found
    seconds: dict[str, float]

    @property
    def point(self) -> Point:
        return self.front[self.chosen]

    def as_dict(self, most: int | None = None) -> dict[str, Any]:
        """For JSON; with `most`, so many points of the front, the chosen one among them."""
        shown = self.shown(most or len(self.front))
        ms = self.costs.full_ms
        return {
            "strategy": "search",
            "data": self.data,
            "images": {"search": self.images, "report": self.report_images, "folds": FOLDS},
            "seed": self.seed,
            "costs": self.costs.as_dict(),
            "budget": self.budget.as_dict(),
            "candidates": [{"tap": c.name, "cost": c.cost, "accuracy": c.accuracy} for c in self.candidates],
            "full": {"search": self.full[0].accuracy, "report": self.full[1].accuracy},
            "search": {
                "exits": self.found.exits,
                "grid": self.found.grid,
                "cascades": self.found.looked_at,
                "ruled_out": self.found.ruled_out,
                "interrupted": self.found.interrupted,
            },
            "front": [self.front[i].as_dict(ms) for i in shown],
            "points": len(self.front),
            "chosen": shown.index(self.chosen),
            "why": self.why,
            "verdict": self.verdict,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def shown(self, most: int) -> list[int]:
        """Points of the front, evenly, with both ends and the chosen one."""
        last = len(self.front) - 1
        even = {round(last * step / max(most - 1, 1)) for step in range(most)} if last >= most else range(last + 1)
        return sorted({*even, self.chosen})


def place(
    program: Program, images: Images, wishes: Wishes, seen: Measured | None = None, *, tell: Tell,
    spare: int = 0, observers: Sequence[Observer] = (),
) -> Placement:  # fmt: skip
    """Search, choose, and put the exits into `program`, which knows its cut points, with so many spare outputs.

    Raises DataError.
    """
    clock = _Clock()
    known = labelled(images)
    assert images.labels is not None  # labelled() has looked
    labels, pixels = images.labels[known], images.pixels[known]
    classes = len(program.classes) + spare
    cuts = with_linear_heads(candidates(program, wishes.names), classes, wishes.head)
    probe = with_exits_everywhere(program, cuts, wishes.head, spare)
    exits = probe.exits
    costs = by_macs(cuts, exits, classes) if seen is None else by_time(cuts, exits, classes, seen)
    given = [parse_static(text, costs) for text in wishes.static]
    divided = split(labels, wishes.seed)
    features, final = extract(probe, pixels, lambda done, total: tell("features", done, total))
    clock.lap("features")
    records = record(
        exits, features, final, labels, divided, wishes.seed, lambda done, total: tell("training heads", done, total)
    )
    clock.lap("heads")
    found = search(records.search, costs, wishes.exits, lambda done, total: tell("searching", done, total))
    clock.lap("search")
    taps = [cut.node for cut in cuts]
    front = points(found, taps, records.temperatures, records.search, records.report, costs)
    full = figures([], records.search, costs), figures([], records.report, costs)
    chosen, why = choose(front, full[0].accuracy, costs, wishes.budget)
    small = truncations(taps, records.search, costs)
    said = verdict(front, front[chosen], full[1], len(divided.report), small, given, costs)
    placement = Placement(
        images.name, len(divided.search), len(divided.report), wishes.seed, costs, small, front, full, chosen, why,
        said, wishes.budget, found, clock.laps,
    )  # fmt: skip
    commit(program, placement, records, images, wishes.head, spare, observers)
    return placement


def commit(
    program: Program, placement: Placement, records: Records, images: Images, head: HeadWish = AUTO, spare: int = 0,
    observers: Sequence[Observer] = (),
) -> None:  # fmt: skip
    """The chosen exits, ready to answer."""
    chosen = placement.point.exits
    run(program, exits_pipeline(tuple(exit.tap for exit in chosen), head=head, spare=spare), observers)
    for exit, early in zip(program.exits, chosen, strict=False):
        write_head(program, exit, records.heads[early.candidate])
        exit.temperature, exit.threshold, exit.enabled = early.temperature, early.threshold, True
    program.exits[-1].temperature = records.temperatures[-1]
    program.levels = measure_levels(images.pixels)
    if unnamed(program.classes):
        program.classes = list(images.class_names)
    program.provenance["place"] = placement.as_dict(KEPT)


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._start = now - self._start, now
