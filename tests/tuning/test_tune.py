"""Tuning a small network: on this machine, under the emulator, by arithmetic; killed, stopped, gone on with."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from perse_compile import driver, targets
from perse_compile.artifact import open_artifact
from perse_compile.errors import DeviceError
from perse_compile.lowering.choices import Choices, Knobs
from perse_compile.lowering.network import lower
from perse_compile.program import Program
from perse_compile.report.figures import tuning_words
from perse_compile.tuning.bench import Bench, bench_for
from perse_compile.tuning.candidate import Measurement
from perse_compile.tuning.database import open_database, read
from perse_compile.tuning.measure import MeasuringStopped
from perse_compile.tuning.model import points
from perse_compile.tuning.prepare import BATCH, prepare
from perse_compile.tuning.records import MEASURED, MODELLED
from perse_compile.tuning.standing import Standing, next_task
from perse_compile.tuning.tasks import tasks_of
from perse_compile.tuning.tune import Budget, Tuning

X86 = targets.load("x86_64-linux")
ROOT = Path(__file__).parents[2]
Costs = Callable[[Standing, Knobs], float]


@pytest.fixture
def path(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    tiny.save(tmp_path / "tiny.perse")
    return tmp_path / "tiny.perse"


class Pretended:
    """A device where knobs take what `costs` says; remembers all that it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, costs: Costs) -> None:
        self.asked: list[tuple[Any, Knobs]] = []

        def measure(tuning: Tuning, standings: Sequence[Standing], knobs: Sequence[Knobs]) -> list[Measurement]:
            self.asked += [(s.task.work, each) for s, each in zip(standings, knobs, strict=True)]
            made = [costs(s, each) for s, each in zip(standings, knobs, strict=True)]
            return [Measurement((c,)) if math.isfinite(c) else Measurement(error="crashed (signal 11)") for c in made]

        monkeypatch.setattr(Tuning, "_measure", measure)


def by_points(standing: Standing, knobs: Knobs) -> float:
    return 1e-6 * points(standing.task.work, knobs, X86)


def prepared(tiny: Program, database: Path, **more: Any) -> Tuning:
    return prepare(tiny, bench_for(X86, "local"), open_database(database, None), **more)


def test_tune_then_build(path: Path, tmp_path: Path) -> None:
    """Measured on this machine; a build with what was found is verified, and the same byte for byte."""
    database = tmp_path / "t.jsonl"
    told: list[str] = []
    found = driver.tune(
        path, "x86_64-linux", trials=BATCH + 1, database=database, follow=lambda summary, what: told.append(what)
    )
    assert (found["how"], found["unit"], found["interrupted"]) == (MEASURED, "seconds", False)
    assert BATCH < found["trials"] <= 3 * BATCH and 0 < found["after"] <= found["before"]
    assert sum(row["share"] for row in found["tasks"]) == pytest.approx(1) and found["not_measured"] == []
    assert "default knobs of" in told[0] and any("once more" in what for what in told)
    assert all(r.error is None for r in read(database))
    first = driver.build(path, "x86_64-linux", output=tmp_path / "a", database=database)
    second = driver.build(path, "x86_64-linux", output=tmp_path / "b", database=database)
    assert first.selftest is not None
    for name in ("perse", "backbone.bin", "plan.c", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    said = second.artifact.manifest["tuning"]
    assert said["measured"] >= 1 and said["default"] >= 1 and said["where"] == [found["where"]]
    assert tuning_words(said) == driver.show(tmp_path / "a")["tuning"]["words"]


def test_empty_database_changes_nothing(tiny: Program, tmp_path: Path) -> None:
    def scripts(choices: Choices) -> dict[str, str]:
        return {name: func.script() for name, func in lower(tiny, choices).kernels.items()}

    empty = open_database(tmp_path / "none.jsonl", None).remembered(X86)
    assert scripts(Choices(X86, empty)) == scripts(Choices(X86))


def test_words_of_the_report() -> None:
    assert tuning_words({"measured": 0, "modelled": 0, "default": 3, "where": []}) == (
        "knobs of 3 workloads: 3 by default, not tuned"
    )
    assert tuning_words({"measured": 1, "modelled": 2, "default": 0, "where": ["a", "b"]}) == (
        "knobs of 3 workloads: 1 measured, 2 modelled, not measured (a, b)"
    )


def test_every_task_once(tiny: Program) -> None:
    tasks = tasks_of(tiny, X86)
    assert len({task.work for task in tasks}) == len(tasks)
    assert {task.work.family for task in tasks} >= {"conv", "head"}
    assert [task.count for task in tasks if task.work.family == "head"] >= [1]
    for task in tasks:
        assert [c.output for c in task.candidate(task.default).calls]


def test_nothing_is_measured_twice(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the default, which every batch is compared with, and finalists."""
    device = Pretended(monkeypatch, by_points)
    database = tmp_path / "t.jsonl"
    first = prepared(tiny, database)
    first.run(Budget(trials=60))
    defaults = {(s.task.work, s.task.default) for s in first.standings}
    known = {(r.workload, r.knobs) for r in read(database)} - defaults
    assert len(known) == first.trials >= 60
    again = prepared(tiny, database)
    assert again.before == pytest.approx(first.before) and again.after == pytest.approx(first.after)
    device.asked.clear()
    again.run(Budget(trials=30))
    finalists = {(r.workload, r.knobs) for r in read(database) if r.rounds > 1}
    assert again.trials >= 30 and set(device.asked) & known <= finalists
    assert again.after <= first.after


def test_the_budget_goes_where_time_is(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, lambda s, knobs: by_points(s, knobs) * (100 if s.task.work.stride == (2, 2) else 1))
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(trials=100))
    by_time = sorted(tuning.standings, key=lambda s: s.time, reverse=True)
    assert by_time[0].tried > by_time[-1].tried and by_time[0].tried >= 2 * BATCH - 2


def test_a_winner_has_to_win_again(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fast once, by chance, is not built; what fails is not either."""
    seen: set[Any] = set()

    def costs(standing: Standing, knobs: Knobs) -> float:
        if knobs == standing.task.default:
            return 1.0
        new = (standing.task.work, knobs) not in seen
        seen.add((standing.task.work, knobs))
        if getattr(knobs, "unroll", 0) == 1:
            return math.inf
        return 0.5 if new else 1.1

    Pretended(monkeypatch, costs)
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(trials=40))
    database = open_database(tmp_path / "t.jsonl", None)
    tried = [s for s in tuning.standings if s.tried]
    assert tried and all((s.chosen, s.gain) == (s.task.default, 1.0) for s in tried)
    for standing in tried:
        chosen = database.remembered(X86)(standing.task.work)
        assert chosen is not None and chosen.knobs == standing.task.default
    assert any(r.error == "crashed (signal 11)" and r.cost is None for r in database.records)
    assert tuning.after == tuning.before


def test_one_slow_core_makes_no_winner(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other process runs on a core that takes twice as long; all knobs are alike."""
    count = iter(range(10**6))
    Pretended(monkeypatch, lambda s, k: 2.0 if next(count) % 2 == 0 else 1.0)
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(trials=40))
    assert any(s.tried for s in tuning.standings)
    assert all(s.gain == 1.0 and s.chosen == s.task.default for s in tuning.standings if s.tried)


def test_a_false_winner_of_an_earlier_run_is_found_out(
    tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "t.jsonl"
    Pretended(monkeypatch, lambda s, k: 1.0 if k == s.task.default else 0.8)
    first = prepared(tiny, database)
    first.run(Budget(trials=20))
    assert any(s.gain == pytest.approx(0.8) for s in first.standings)
    Pretended(monkeypatch, lambda s, k: 1.0)
    again = prepared(tiny, database)
    again.run(Budget(trials=1))
    assert all(s.gain == 1.0 for s in again.standings)
    kept = open_database(database, None)
    for standing in again.standings:
        chosen = kept.remembered(X86)(standing.task.work)
        assert chosen is None or chosen.knobs == standing.task.default


def test_a_default_that_fails_is_left_alone(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, lambda s, k: math.inf if s.task.work.family == "head" else by_points(s, k))
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(trials=20))
    heads = [s for s in tuning.standings if s.task.work.family == "head"]
    assert heads and all(s.tried == 0 for s in heads) and math.isfinite(tuning.before)


def test_an_unsteady_machine(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that takes longer at the end of a batch has the batch measured again."""
    count = iter(range(10**6))
    device = Pretended(monkeypatch, lambda s, k: by_points(s, k) * (1 + 9 * (next(count) % 30 == 29)))
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(trials=20))
    assert tuning.trials >= 20 and len(device.asked) > tuning.trials
    assert all(s.best[1] <= 1.0 for s in tuning.standings)


def test_time_is_a_budget(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, by_points)
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(minutes=0.0))
    assert tuning.trials == 0 and tuning.before > 0
    assert next_task([]) is None


def test_small_spaces_come_to_an_end(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, by_points)
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.standings = [s for s in tuning.standings if s.task.work.family == "head"]
    tuning.run(Budget(trials=10**6))
    assert all(s.done for s in tuning.standings)


def test_ctrl_c_keeps_everything(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)

    def costs(standing: Standing, knobs: Knobs) -> float:
        if knobs != standing.task.default and not tuning.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        return by_points(standing, knobs)

    Pretended(monkeypatch, costs)
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    tuning.run(Budget(trials=10**6))
    assert tuning.interrupted and 0 < tuning.trials <= BATCH
    assert len(read(tmp_path / "t.jsonl")) >= tuning.trials
    assert signal.getsignal(signal.SIGINT) is before


def test_a_device_that_goes_away(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had said is kept."""

    def measure(bench: Bench, batch: Sequence[Any]) -> list[Measurement]:
        if len(done) > 1:
            raise MeasuringStopped("board stopped answering", {1: Measurement((0.5,)), 2: Measurement(error="crashed")})
        done.append(1)
        return [Measurement((1.0,)) for _ in batch]

    done: list[int] = [1]
    monkeypatch.setattr(Bench, "measure", measure)
    tuning = prepared(tiny, tmp_path / "t.jsonl")
    with pytest.raises(MeasuringStopped, match="board stopped answering"):
        tuning.run(Budget(trials=100))
    kept = [r for r in read(tmp_path / "t.jsonl") if r.cost != 1.0]
    assert [(r.cost, r.error) for r in kept] == [(0.5, None), (None, "crashed")]


def test_killed_then_gone_on(path: Path, tmp_path: Path, tiny: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 loses at most the batch being measured; its records are read, and not measured again."""
    database = tmp_path / "t.jsonl"
    command = [sys.executable, "-m", "perse_compile", "tune", str(path), "--target", "x86_64-linux", "--trials", "5000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--database", str(database)], env=environment, stderr=subprocess.DEVNULL)
    lines = 0
    end = time.monotonic() + 240
    while lines < len(tasks_of(tiny, X86)) + 1 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
        lines = database.read_bytes().count(b"\n") if database.exists() else 0
    process.kill()
    assert process.wait() == -signal.SIGKILL
    database.write_bytes(database.read_bytes() + b'{"torn')
    known = {(r.workload, r.knobs) for r in read(database)}
    assert len(known) > len(tasks_of(tiny, X86))
    device = Pretended(monkeypatch, by_points)
    tuning = prepared(tiny, database)
    tuning.run(Budget(trials=12))
    fresh = {(s.task.work, k) for s in tuning.standings for k in s.ratios} - known
    defaults = {(s.task.work, s.task.default) for s in tuning.standings}
    finalists = {(r.workload, r.knobs) for r in read(database) if r.rounds > 1}
    assert len(fresh) >= 12 and set(device.asked) & known <= defaults | finalists
    assert len(read(database)) >= len(known) + 12


@pytest.mark.arm
def test_the_emulator_ranks_by_instructions(path: Path, tmp_path: Path) -> None:
    database = tmp_path / "t.jsonl"
    found = driver.tune(path, "arm64-linux", device="emulator", trials=4, database=database)
    assert (found["how"], found["unit"]) == (MODELLED, "instructions")
    assert found["where"] == "instructions under the emulator" and 0 < found["after"] <= found["before"]
    target = targets.load("arm64-linux")
    choices = Choices(target, open_database(database, None).remembered(target))
    lower(Program.load(path), choices)
    said = choices.summary()
    assert (said["measured"], said["where"]) == (0, ["instructions under the emulator"]) and said["modelled"] >= 1


def test_by_arithmetic(path: Path, tmp_path: Path, tiny: Program) -> None:
    database = tmp_path / "t.jsonl"
    found = driver.tune(path, "raspberry-pi-4", device="model", database=database)
    assert (found["how"], found["unit"], found["trials"]) == (MODELLED, "points", 0)
    assert 0 < found["after"] <= found["before"]
    target = targets.load("raspberry-pi-4")
    choices = Choices(target, open_database(database, None).remembered(target))
    lower(tiny, choices)
    assert choices.summary()["modelled"] == len(found["tasks"])


# --- the command ------------------------------------------------------------------------------------------


def test_the_command(path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, by_points)
    out, _ = call("tune", "--target", "x86_64-linux", "--trials", "12", "--database", "t.jsonl")
    assert all(words in out for words in ("speed-up", "times as fast", "kept in t.jsonl", "measured on", "by default"))
    out, _ = call("tune", "--target", "x86_64-linux", "--trials", "12", "--database", "t.jsonl", "--json")
    found = json.loads(out)
    assert found["trials"] >= 12 and found["tasks"][0]["share"] >= found["tasks"][-1]["share"]
    out, _ = call("tune", "--export", "e.jsonl", "--database", "t.jsonl")
    count = len(read(Path("e.jsonl")))
    assert f"{count} records written to e.jsonl" in out and count > 0
    out, _ = call("tune", "--import", "e.jsonl", "--database", "u.jsonl")
    assert out == f"{count} records came from e.jsonl; 0 were known\n"
    out, _ = call("tune", "--import", "e.jsonl", "--database", "u.jsonl", "--json")
    assert json.loads(out) == {"imported": 0, "known": count}


def test_the_command_stopped(path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def costs(standing: Standing, knobs: Knobs) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return by_points(standing, knobs)

    Pretended(monkeypatch, costs)
    monkeypatch.setattr(signal, "default_int_handler", lambda *_: None)
    before = signal.signal(signal.SIGINT, lambda *_: None)  # after the first, Ctrl-C is what it was before
    try:
        out, _ = call("tune", "--target", "x86_64-linux", "--database", "t.jsonl", code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopped; nothing is lost: the same command goes on from here" in out


def test_build_tunes_first(path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(monkeypatch, by_points)
    out, _ = call("build", "--target", "x86_64-linux", "--tune", "12", "--database", "t.jsonl", "--json")
    artifact = open_artifact(Path(json.loads(out)["artifact"]))
    assert artifact.manifest["tuning"]["measured"] >= 1


def test_errors(path: Path, call: Any) -> None:
    for words, complaint in (
        (("tune",), "tune for which device? give --target"),
        (("tune", "--target", "x86_64-linux", "--device", "toaster"), "unknown device 'toaster'"),
        (("tune", "--target", "arm64-linux", "--device", "local"), "cannot run an artifact for aarch64"),
        (("tune", "--target", "x86_64-linux", "--device", "rpc://nowhere"), "names no servers"),
        (("tune", "--import", "none.jsonl"), "no tuning database none.jsonl"),
    ):
        out, err = call(*words, code=1)
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and complaint in err
    with pytest.raises(DeviceError):
        bench_for(X86, "toaster")
