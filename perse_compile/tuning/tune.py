"""Tuning a program: batch after batch of candidates, each to the task where it promises most, all kept as they come."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from perse_compile.lowering.choices import Knobs
from perse_compile.tuning.bench import Bench
from perse_compile.tuning.candidate import Measurement
from perse_compile.tuning.database import Database
from perse_compile.tuning.learned import Learned
from perse_compile.tuning.measure import MeasuringStopped
from perse_compile.tuning.records import Record, target_key
from perse_compile.tuning.standing import Standing, next_task
from perse_compile.tuning.tasks import Task

SURVEY = 16  # default kernels in one executable
RELATIVES = 2  # winners tried that a task's relatives found
CLEAR = 0.97  # of the default's time: a winner at once; others must win again
FINALISTS, ROUNDS = 3, 9  # measured again, in turns with the default
QUICKER = 4  # rounds in which a winner must be quicker than the default ever was
NOISE = 0.01  # a winner must be better than the default by at least this
UNSTEADY = 1.2  # a batch is measured once more if its default takes so much longer at its end than at its begin


def least(answer: Measurement) -> float:
    """What counts of a measurement: the quickest repeat, since whatever disturbs a machine makes it slower."""
    return min(answer.seconds, default=answer.cost)


@dataclass(frozen=True)
class Budget:
    """Whichever ends first; None for no limit."""

    trials: int | None = None
    minutes: float | None = None


@dataclass
class Tuning:
    """A run of tune: its tasks and how they stand. It is told after every step to `follow`."""

    bench: Bench
    database: Database
    standings: list[Standing]
    model: Learned
    follow: Callable[[Tuning, str], None] = lambda tuning, what: None
    trials: int = 0
    began: float = field(default_factory=time.monotonic)
    interrupted: bool = False
    _batch_seconds: float = 5.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def before(self) -> float:
        """Of one image, all tasks with default knobs."""
        return sum(s.time for s in self.standings if math.isfinite(s.usual))

    @property
    def after(self) -> float:
        """The same with the best knobs so far."""
        return sum(s.time * s.now for s in self.standings if math.isfinite(s.usual))

    def run(self, budget: Budget) -> None:
        """Until the budget ends, nothing is left, or the user stops it: all measured is in the database then.

        Raises DeviceError, TuningError and BuildError.
        """
        with _stopping(self):
            try:
                self._survey()
                for standing in self._turns(budget):
                    self._batch(standing)
                self._settle()
            except MeasuringStopped:
                if not self.interrupted:  # else Ctrl-C stopped what was measuring, too
                    raise

    # --- measuring ----------------------------------------------------------------------------------------

    def _survey(self) -> None:
        """The time of every task's default knobs, which says where time is to be gained."""
        unknown = [standing for standing in self.standings if not math.isfinite(standing.usual)]
        for start in range(0, len(unknown), SURVEY):
            if self.interrupted:
                return
            part = unknown[start : start + SURVEY]
            self.follow(self, f"default knobs of {len(unknown)} tasks")
            measured = self._measure(part, [standing.task.default for standing in part])
            for standing, measurement in zip(part, measured, strict=True):
                standing.usual = least(measurement)
            self.database.add(
                self.record(standing.task, standing.task.default, measurement, standing.usual)
                for standing, measurement in zip(part, measured, strict=True)
            )

    def _turns(self, budget: Budget) -> Iterator[Standing]:
        while True:
            standing = next_task(self.standings)
            if self.interrupted or standing is None or (budget.trials is not None and self.trials >= budget.trials):
                return
            if budget.minutes is not None and self.seconds + self._reserve() > 60 * budget.minutes:
                return
            yield standing

    def _reserve(self) -> float:
        """Seconds that measuring the winners again will take, and this batch."""
        again = sum(standing.best[1] < 1 for standing in self.standings) if self.bench.timed else 0
        return self._batch_seconds * (1 + again)

    def _batch(self, standing: Standing) -> None:
        """One batch of one task: proposed, measured beside the default, recorded, learnt from."""
        self.follow(self, str(standing.task.work))
        began = time.monotonic()
        proposed = list(dict.fromkeys([*self._relatives(standing), *standing.search.propose()]))
        if not proposed:
            standing.done = True
            return
        default, answers = self._beside_default(standing, proposed)
        if not math.isfinite(default):
            standing.done = True  # without its default to compare with, a task cannot be tuned
            return
        self.note(standing, {knobs: least(answer) / default for knobs, answer in answers.items()})
        records = [self.record(standing.task, knobs, answer, default) for knobs, answer in answers.items()]
        knobs, ratio = standing.best
        if knobs in answers and ratio < (CLEAR if self.bench.timed else 1):
            records.append(self.record(standing.task, knobs, answers[knobs], default, best=True))
        self.database.add(records)
        self.trials += len(proposed)
        self._batch_seconds = 0.7 * self._batch_seconds + 0.3 * (time.monotonic() - began)

    def _relatives(self, standing: Standing) -> list[Knobs]:
        """The best knobs of the same work with other operations behind it, if they are not known here."""
        bare = replace(standing.task.work, fused=())
        others = [s for s in self.standings if s is not standing and replace(s.task.work, fused=()) == bare]
        best = [knobs for other in others for knobs in other.top(RELATIVES)]
        return [knobs for knobs in best if knobs not in standing.ratios]

    def _beside_default(self, standing: Standing, proposed: list[Knobs]) -> tuple[float, dict[Knobs, Measurement]]:
        """What the default and the proposed knobs take. The default comes first and last, lest a slow phase of the
        machine passes for a slow candidate."""
        if not self.bench.timed:
            measured = self._measure([standing] * len(proposed), proposed)
            return standing.usual, dict(zip(proposed, measured, strict=True))
        knobs = [standing.task.default, *proposed, standing.task.default]
        measured = self._measure([standing] * len(knobs), knobs)
        ends = least(measured[0]), least(measured[-1])
        if max(ends) > UNSTEADY * min(ends):
            again = self._measure([standing] * len(knobs), knobs)
            measured = [min(pair, key=least) for pair in zip(measured, again, strict=True)]
        return min(least(measured[0]), least(measured[-1])), dict(zip(proposed, measured[1:-1], strict=True))

    def note(self, standing: Standing, ratios: dict[Knobs, float]) -> None:
        standing.note(ratios)
        standing.search.learn(ratios)
        self.model.learn(standing.task.work, list(ratios.items()))

    def _settle(self) -> None:
        """The best few of every task against its default, in turns: only who wins again is a winner.

        Winners of earlier runs are among them: what a disturbed machine made a winner once does not stay one.
        """
        for standing in sorted(self.standings, key=lambda s: s.time * (1 - s.best[1]), reverse=True):
            if self.interrupted:
                return
            settled = standing.best[0] == standing.chosen == standing.task.default
            if standing.tried and not settled and math.isfinite(standing.usual):
                self.follow(self, f"once more: {standing.task.work}")
                self._settle_one(standing)

    def _settle_one(self, standing: Standing) -> None:
        task, finalists = standing.task, standing.top(FINALISTS)
        ratios = {knobs: standing.ratios[knobs] for knobs in finalists}
        if self.bench.timed and finalists:
            usual, ratios = self._again(standing, finalists)
            standing.usual = min(standing.usual, usual)
            standing.ratios.update(ratios)
        best = min(ratios, key=lambda knobs: ratios[knobs], default=task.default)
        standing.chosen, standing.gain = best, ratios.get(best, 1.0)
        if standing.gain >= 1:
            standing.chosen, standing.gain = task.default, 1.0
        usual, answers = standing.usual, {**ratios, task.default: 1.0}
        records = [self.record(task, k, self._worth(usual * r), usual, rounds=ROUNDS) for k, r in answers.items()]
        winner = self._worth(usual * standing.gain)
        self.database.add([*records, self.record(task, standing.chosen, winner, usual, best=True, rounds=ROUNDS)])

    def _again(self, standing: Standing, finalists: list[Knobs]) -> tuple[float, dict[Knobs, float]]:
        """The default's time, and everyone's over it; 1 for those that are not surely quicker.

        Surely is: by NOISE in QUICKER rounds than the default in any. Every round begins with another one: processes
        that follow each other may land on one core and another in turns, and a busy core must not be always the same
        one's.
        """
        knobs = [standing.task.default, *finalists]
        order = [(i + turn) % len(knobs) for turn in range(ROUNDS) for i in range(len(knobs))]
        measured = self._measure([standing] * len(order), [knobs[i] for i in order])
        costs: list[list[float]] = [[] for _ in knobs]
        for i, answer in zip(order, measured, strict=True):
            costs[i].append(least(answer))
        usual, ratios = min(costs[0]), {}
        for each, own in zip(finalists, costs[1:], strict=True):
            surely = sorted(own)[QUICKER - 1] < usual * (1 - NOISE)
            ratios[each] = min(own) / usual if surely else max(1.0, min(own) / usual)
        return usual, ratios

    def _worth(self, cost: float) -> Measurement:
        return Measurement((cost,)) if self.bench.unit == "seconds" else Measurement(instructions=round(cost))

    def _measure(self, standings: Sequence[Standing], knobs: Sequence[Knobs]) -> list[Measurement]:
        batch = [s.task.candidate(each) for s, each in zip(standings, knobs, strict=True)]
        try:
            return self.bench.measure(batch)
        except MeasuringStopped as stopped:
            self._keep(standings, knobs, stopped.measured)
            raise

    def _keep(self, standings: Sequence[Standing], knobs: Sequence[Knobs], measured: dict[int, Measurement]) -> None:
        """What a device said before it went away."""
        self.database.add(
            self.record(standings[i].task, knobs[i], answer, standings[i].usual)
            for i, answer in measured.items()
            if knobs[i] != standings[i].task.default and math.isfinite(standings[i].usual)
        )

    def record(
        self, task: Task, knobs: Knobs, answer: Measurement, default: float, best: bool = False, rounds: int = 1
    ) -> Record:
        works = answer.error is None
        return Record(
            task.work,
            target_key(task.target),
            knobs,
            self.bench.how,
            self.bench.where,
            self.bench.threads,
            self.bench.unit,
            cost=least(answer) if works else None,
            default=default if works else None,
            error=answer.error,
            best=best,
            rounds=rounds,
        )


@contextmanager
def _stopping(tuning: Tuning) -> Iterator[None]:
    """Ctrl-C ends the run after this batch; a second one at once. Only the main thread hears of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        tuning.interrupted = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
