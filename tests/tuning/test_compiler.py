"""Candidates whose compilation hangs, explodes or ends its process cost themselves and nothing else."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perse_compile import targets
from perse_compile.errors import BuildError
from perse_compile.lowering.kernels.scope import KernelCall
from perse_compile.program import Program
from perse_compile.tuning import compiler
from perse_compile.tuning.batch import write_batch
from perse_compile.tuning.bench import Bench, bench_for
from perse_compile.tuning.candidate import Candidate, Measurement
from perse_compile.tuning.compiler import Compiler, DoesNotCompile
from perse_compile.tuning.database import open_database, read
from perse_compile.tuning.prepare import prepare
from perse_compile.tuning.tasks import Task
from perse_compile.tuning.tune import Budget
from tests.tuning import schedules
from tests.tuning.candidates import double, of

X86 = targets.load("x86_64-linux")


def by(schedule: Any) -> Candidate:
    return Candidate([replace(of(X86, double).calls[0], schedule=schedule)], "double")


def test_what_ends_the_process_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "LIMIT", 2.0)
    ways = (schedules.hangs, schedules.nothing, schedules.dies, schedules.eats_memory, schedules.prints)
    began = time.monotonic()
    batch = write_batch([by(way) for way in ways], X86, tmp_path)
    assert time.monotonic() - began < 60
    assert batch.failed == {
        0: "does not compile: takes longer than 2 s",
        2: "does not compile: the compiler died (signal 6)",
        3: "does not compile: MemoryError",
    }
    assert [Path(path).stat().st_size > 0 for path in batch.objects] == [True, True]


def test_tuning_goes_on(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some knobs make code that compiles for ever: they are recorded as failed, and not tried again."""
    usual, made = Task.candidate, []
    monkeypatch.setattr(compiler, "LIMIT", 1.0)

    def candidate(task: Task, knobs: Any) -> Candidate:
        found = usual(task, knobs)
        if knobs == task.default or made:
            return found
        made.append((task.work, knobs))
        return replace(found, calls=[replace(call, schedule=schedules.hangs) for call in found.calls])

    def measure(bench: Bench, batch: Sequence[Candidate]) -> list[Measurement]:
        failed = write_batch(batch, X86, tmp_path).failed
        return [Measurement(error=failed[n]) if n in failed else Measurement((1.0,)) for n in range(len(batch))]

    monkeypatch.setattr(Task, "candidate", candidate)
    monkeypatch.setattr(Bench, "measure", measure)
    tuning = prepare(tiny, bench_for(X86, "local"), open_database(tmp_path / "t.jsonl", None))
    tuning.run(Budget(trials=13))
    kept = read(tmp_path / "t.jsonl")
    slow = [(r.workload, r.knobs) for r in kept if r.error == "does not compile: takes longer than 1 s"]
    assert slow == made and len(made) == 1 and tuning.trials >= 13
    assert {(r.workload, r.knobs) for r in kept if r.error is None and r.rounds == 1} - set(made)


def test_one_process_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Ctrl-C, which leaves no answer behind; the next one ends when its input does, as with its parent."""
    own, call = Compiler(), of(X86, double).calls[0]
    refused = replace(call, schedule=schedules.refuses)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    _compile(own, call, tmp_path)
    first = own._process
    _compile(own, call, tmp_path)
    assert first is not None and own._process is first and first.poll() is None
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Compiler, "_answer", interrupted)
        _compile(own, call, tmp_path)
    assert first.returncode == -signal.SIGKILL
    with pytest.raises(DoesNotCompile, match=r"^no loop of that name$"):
        _compile(own, refused, tmp_path)
    second = own._process
    assert second is not None and second.stdin is not None
    second.stdin.close()
    assert second.wait(timeout=60) == 0
    own.close()
    own.close()


def test_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perse_compile").mkdir()
    (tmp_path / "perse_compile" / "__init__.py").write_text("raise ValueError('out of luck')\n")
    with pytest.raises(
        BuildError, match=r"^cannot start the process that compiles candidates: ValueError: out of luck$"
    ):
        _compile(Compiler(), of(X86, double).calls[0], tmp_path)


def _compile(own: Compiler, call: KernelCall, folder: Path) -> None:
    path = folder / "kernel.o"
    path.unlink(missing_ok=True)
    own.compile(call.schedule, call.func, "kernel", X86, path)
    assert path.stat().st_size > 0
