"""A run of tune before its first batch: the tasks, and what earlier runs found of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from perse_compile.program import Program
from perse_compile.tuning.bench import Bench
from perse_compile.tuning.database import Database
from perse_compile.tuning.learned import Learned
from perse_compile.tuning.records import target_key
from perse_compile.tuning.search import Search
from perse_compile.tuning.space import sketches
from perse_compile.tuning.standing import Standing
from perse_compile.tuning.tasks import tasks_of
from perse_compile.tuning.tune import Tuning

BATCH = 12  # candidates beside the default


def prepare(
    program: Program,
    bench: Bench,
    database: Database,
    follow: Callable[[Tuning, str], None] = lambda tuning, what: None,
) -> Tuning:
    """The tasks of a program, with what the database knows of them."""
    model = Learned(bench.target)
    standings = []
    for task in tasks_of(program, bench.target):
        found = sketches(task.work, bench.target, by_instructions=not bench.timed)
        standing = Standing(task, Search(task.work, found, model, BATCH))
        standings.append(standing)
    tuning = Tuning(bench, database, standings, model, follow)
    for standing in standings:
        _recall(tuning, standing)
    _learn_from_others(tuning)
    return tuning


def _learn_from_others(tuning: Tuning) -> None:
    """What was measured here for other programs teaches the model, too."""
    own = {standing.task.work for standing in tuning.standings}
    for record in tuning.database.records:
        about = record.target, record.where, record.threads
        same = about == (target_key(tuning.bench.target), tuning.bench.where, tuning.bench.threads)
        if same and record.workload not in own and not record.best and record.cost and record.default:
            tuning.model.learn(record.workload, [(record.knobs, record.cost / record.default)])


def _recall(tuning: Tuning, standing: Standing) -> None:
    """What earlier runs found on this device, as if it had just been measured."""
    task, bench = standing.task, tuning.bench
    tried = tuning.database.tried(task.work, task.target, bench.where, bench.threads)
    usual = tried.pop(task.default, None)
    standing.search.learn({task.default: 1.0})
    if usual is None or usual.cost is None:
        return
    standing.usual = usual.cost
    ratios = {k: r.cost / r.default if r.cost and r.default else math.inf for k, r in tried.items()}
    if ratios:
        tuning.note(standing, ratios)
    if (chosen := tuning.database.chosen(task.work, task.target, bench.where, bench.threads)) is not None:
        standing.chosen = chosen.knobs
        standing.gain = chosen.cost / chosen.default if chosen.cost and chosen.default else 1.0
