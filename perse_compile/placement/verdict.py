"""What a person should know of the chosen point, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from perse_compile.placement.budget import points_of, told
from perse_compile.placement.costs import Costs
from perse_compile.placement.points import Figures, Point
from perse_compile.placement.static import Static, beats, cheapest

NOTED = 2.0  # standard errors by which the report may fall short before it is said


def verdict(
    front: Sequence[Point], chosen: Point, full: Figures, images: int, truncated: Sequence[Static],
    given: Sequence[Static], costs: Costs,
) -> list[str]:  # fmt: skip
    """`full`: of the full network on the report's images, which are `images` many."""
    return [
        *_exits_pay(front, chosen, truncated, costs),
        *(_against(one, front, chosen, costs) for one in given),
        *_falls_short(chosen, full, images),
    ]


def _exits_pay(front: Sequence[Point], chosen: Point, truncated: Sequence[Static], costs: Costs) -> list[str]:
    if not chosen.exits:
        alone = "the front is the full network alone" if len(front) == 1 else "nothing cheaper is within the limits"
        return [f"no exit pays: {alone}"]
    if chosen.static:
        return [
            f"a smaller static network is better than early exits: the backbone up to {chosen.exits[0].tap} with the"
            f" head there, right on {chosen.search.accuracy:.1%} for {told(chosen.search.cost, costs)}"
        ]
    said = []
    if chosen.exits[-1].threshold == 0:
        said.append(f"the final exit never answers: the network could end at {chosen.exits[-1].tap}")
    rival = cheapest(truncated, chosen.search.accuracy)
    if rival is not None and rival.cost < 1:
        said.append(
            f"early exits pay: as accurate without a choice is the backbone up to {rival.name} with a head there,"
            f" for {told(rival.cost, costs)}"
        )
    else:
        said.append("early exits pay: no truncated network is as accurate")
    return said


def _against(one: Static, front: Sequence[Point], chosen: Point, costs: Costs) -> str:
    what = f"{one.name} (right on {one.accuracy:.1%} for {told(one.cost, costs)})"
    if beats(one, chosen):
        return f"{what} is better than what was chosen: use that instead"
    better = [point for point in front if point.search.cost <= one.cost and point.search.accuracy >= one.accuracy]
    if better:
        return f"{what} is no better than the front, which has {better[-1].search.accuracy:.1%} for no more"
    return f"{what} lies beyond the front, but is not better in both than what was chosen"


def _falls_short(chosen: Point, full: Figures, images: int) -> list[str]:
    """On the report's images, against the search's."""
    spread = (chosen.search.accuracy * (1 - chosen.search.accuracy) / images) ** 0.5
    gap = chosen.search.accuracy - chosen.report.accuracy
    if gap <= NOTED * spread:
        return []
    return [
        f"on the {images} images of the report it is right less often than in the search, by {points_of(gap)}:"
        f" take more images, or fewer exits; the full network is right on {full.accuracy:.1%} of them"
    ]
