"""Measures the kernels of common networks here, for perse_compile/tuning/shipped.jsonl, which comes with the package.

    python benchmarks/shipped.py [MODEL ...] [--target x86_64-linux] [--winners DATABASE] -o FILE

Every workload gets an entry of its default knobs, with what they take. --winners: a database of `perse-compile tune` on
this processor; a workload gets the knobs that won there instead if they were quicker than the default by over GAIN.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from perse_compile import driver, targets
from perse_compile.tuning.bench import bench_for
from perse_compile.tuning.database import Database, append, open_database
from perse_compile.tuning.prepare import prepare
from perse_compile.tuning.records import Record
from perse_compile.tuning.tune import Budget

MODELS = ["resnet18", "resnet50", "mobilenet_v2"]
GAIN = 0.03  # of the default's time: less is noise


def measured(model: str, target: str, database: Database) -> list[Record]:
    """The default knobs of every task, as tune measures them before it searches."""
    bench = bench_for(targets.load(target), "local")
    tuning = prepare(driver.insert_exits(model, weights="none"), bench, database)
    tuning.run(Budget(trials=0))
    here = [tuning.database.tried(s.task.work, s.task.target, bench.where, 1) for s in tuning.standings]
    found = [known.get(standing.task.default) for known, standing in zip(here, tuning.standings, strict=True)]
    return [replace(record, best=True) for record in found if record is not None and record.cost is not None]


def winner(record: Record, database: Database, target: str) -> Record:
    """What tune found for the same workload, if it is surely quicker."""
    known = targets.load(target)
    found = database.chosen(record.workload, known, record.where, record.threads)
    if found is None or not found.cost or not found.default or found.cost > (1 - GAIN) * found.default:
        return record
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", default="x86_64-linux")
    parser.add_argument("--winners", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.output.exists():
        sys.exit(f"{options.output} is there already")
    work = options.output.with_suffix(".measured.jsonl")
    database = open_database(work, None)
    entries: dict[object, Record] = {}
    for model in options.models:
        for record in measured(model, options.target, database):
            entries[record.workload] = record
        print(f"{model}: {len(entries)} workloads so far", file=sys.stderr)
    if options.winners:
        tuned = open_database(options.winners, None)
        entries = {work: winner(record, tuned, options.target) for work, record in entries.items()}
    append(options.output, [record.line() for record in entries.values()])
    won = sum(record.rounds > 1 for record in entries.values())
    print(f"{len(entries)} entries, {won} of them quicker than the default, written to {options.output}")


if __name__ == "__main__":
    main()
