"""Tuning without any device."""

from __future__ import annotations

from perse_compile.tuning.candidate import Measurement
from perse_compile.tuning.model import executed, points
from perse_compile.tuning.tune import CLEAR, Tuning


def by_arithmetic(tuning: Tuning) -> None:
    """The knobs that model.py holds for the best, where it sees a clear gain."""
    target = tuning.bench.target
    for standing in tuning.standings:
        work, usual = standing.task.work, standing.task.default
        every = [knobs for sketch in standing.search.sketches for knobs in sketch.all()]
        most = executed(
            work, usual, target
        )  # no better use of the cache is certain enough to pay for with instructions
        fewer = [knobs for knobs in every if executed(work, knobs, target) <= most]
        best = min(fewer, key=lambda knobs: points(work, knobs, target))
        standing.usual = points(work, usual, target)
        standing.gain = points(work, best, target) / standing.usual
        if standing.gain > CLEAR:
            best, standing.gain = usual, 1.0
        standing.chosen = best
    tuning.database.add(
        tuning.record(s.task, s.chosen, Measurement((s.usual * s.gain,)), s.usual, best=True)
        for s in tuning.standings
        if s.chosen is not None
    )
