"""How right each exit is, and when: before and after heads learnt, in milliseconds where these were measured."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def curve_of(found: Row) -> Row | None:
    """From what personalising measured, else from what training the exits did; None where neither took place.

    `x` is "ms", or "cost": share of the network's multiply-accumulates. A line has a point for every exit, were it
    alone to answer, and one for all together.
    """
    record = found["personalised"]
    if record is not None:
        lines = [_learnt(found, record, when) for when in ("before", "after")]
        measure = "accuracy" if record["labelled"] else "agreement"
        images, of = record["samples"]["judged"], "personalise"
    elif found["trained"] is not None:
        trained = found["trained"]
        lines = [_trained(found, trained, when) for when in ("before", "after")]
        measure, images, of = trained["measure"], trained["images"]["held_out"], "train-exits"
    else:
        return None
    return {"of": of, "measure": measure, "images": images, "x": "ms" if _timed(found) else "cost", "lines": lines}


def _learnt(found: Row, record: Row, when: str) -> Row:
    rows = [(row[f"accuracy_{when}"], row[f"share_{when}"]) for row in record["exits"]]
    points = [
        {"exit": exit["name"], "x": _x(found, exit), "y": y, "share": share}
        for exit, (y, share) in zip(found["exits"], rows, strict=True)
    ]
    cost = sum(point["share"] * point["x"] for point in points) if _timed(found) else record[when]["cost"]
    return {"name": when, "points": points, "together": {"x": cost, "y": record[when]["accuracy"]}}


def _trained(found: Row, trained: Row, when: str) -> Row:
    shares = trained.get("shares", {}) if when == "after" else {}
    points = [
        {"exit": e["name"], "x": _x(found, e), "y": trained[when][e["name"]], "share": shares.get(e["name"])}
        for e in found["exits"]
    ]
    if when == "before":
        return {"name": when, "points": points, "together": None}
    known = _timed(found) and all(point["share"] is not None for point in points)
    if _timed(found) and not known:
        return {"name": when, "points": points, "together": None}
    cost = sum(point["share"] * point["x"] for point in points) if known else trained["cost"]
    return {"name": when, "points": points, "together": {"x": cost, "y": trained["early"]}}


def _timed(found: Row) -> bool:
    """Times of one device say nothing of heads on another, but where they are right is the same everywhere."""
    return found["time"] is not None


def _x(found: Row, exit: Row) -> float:
    return float(exit["ms"] if _timed(found) else exit["share"])
