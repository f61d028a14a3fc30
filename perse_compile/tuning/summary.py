"""What a run of tune found, as plain data for the command line."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from perse_compile.lowering.choices import Knobs
from perse_compile.tuning.standing import Standing
from perse_compile.tuning.tune import Tuning


def summary(tuning: Tuning) -> dict[str, Any]:
    """Tasks, those that take longest first; totals of one image in the bench's unit."""
    bench = tuning.bench
    known = sorted((s for s in tuning.standings if math.isfinite(s.usual)), key=lambda s: s.time, reverse=True)
    failed = [str(s.task.work) for s in tuning.standings if not math.isfinite(s.usual)]
    before = tuning.before
    return {
        "target": bench.target.name,
        "where": bench.where,
        "served": bench.served,
        "lost": bench.lost,
        "left_out": bench.unfit,
        "how": bench.how,
        "unit": bench.unit,
        "threads": bench.threads,
        "trials": tuning.trials,
        "seconds": tuning.seconds,
        "interrupted": tuning.interrupted,
        "tasks": [_row(standing, before) for standing in known],
        "not_measured": failed,
        "before": before,
        "after": tuning.after,
        "database": str(tuning.database.path),
    }


def _row(standing: Standing, total: float) -> dict[str, Any]:
    work = standing.task.work
    fused = "".join(f" {name}" for name in work.fused)
    knobs = standing.task.default if standing.chosen is None else standing.chosen
    return {
        "workload": f"{work}{fused}",
        "count": standing.task.count,
        "share": standing.time / total if total else 0.0,
        "default": standing.usual,
        "best": standing.usual * standing.now,
        "speed_up": 1 / standing.now,
        "trials": standing.tried,
        "settled": standing.chosen is not None,
        "knobs": changed(knobs, standing.task.default),
    }


def changed(knobs: Knobs, default: Knobs) -> str:
    """The knobs that are not the default's, in words."""
    names = [f.name for f in fields(knobs) if f.compare and getattr(knobs, f.name) != getattr(default, f.name)]
    return ", ".join(f"{name.replace('_', ' ')} {getattr(knobs, name)}" for name in names)
