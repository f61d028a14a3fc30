"""Many boards at once: `rpc://tracker:port/key` names the servers that offer themselves to TVM's tracker under a key.

A batch is cut into groups of a few candidates. Each group is one shared library; whichever server is free takes the
next one. Servers come and go: what a lost one had goes to another, and it gets nothing more from this batch.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from perse_compile.errors import DeviceError
from perse_compile.targets import Target
from perse_compile.tuning.answers import Sums, read_answers
from perse_compile.tuning.batch import Batch
from perse_compile.tuning.candidate import Candidate, Measurement
from perse_compile.tuning.linking import link_batch_library
from perse_compile.tuning.measure import Effort, MeasuringStopped, prepared
from perse_compile.tuning.rpc_session import Lost, NobodyFree, Refused, Tracker, measure_there

GROUP = 4  # candidates that one server gets at a time
PATIENCE = 20.0  # seconds for a server to be found, and beyond its candidates' limits for one to answer
TRIES = 3  # of a group on different servers


@dataclass
class _Group:
    numbers: list[int]  # in the batch
    batch: Batch
    tries: int = 0
    lines: list[str] | None = None  # answers


@dataclass(eq=False)
class _Attempt:
    """A thread that finds a server and has it measure a group."""

    group: _Group
    until: float  # time.monotonic()
    server: str | None = None
    lines: list[str] | None = None
    error: Exception | None = None


@dataclass
class Farm:
    """The servers under one key. For reports: which went away while measuring, and why; which were left out from then
    on, since they cannot run the code, with what they said; which measured how many."""

    tracker: Tracker
    lost: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)

    @classmethod
    def named(cls, name: str) -> Farm:
        """Of rpc://tracker:port/key. Raises DeviceError."""
        match = re.fullmatch(r"rpc://([^:/]+):(\d{1,5})/([^/\s]+)", name)
        if match is None:
            raise DeviceError(f"{name!r} names no servers; write rpc://TRACKER:PORT/KEY")
        return cls(Tracker(match[1], int(match[2]), match[3]))

    def measure(
        self,
        batch: Sequence[Candidate],
        target: Target,
        *,
        threads: int = 1,
        effort: Effort | None = None,
        results: dict[str, Sums] | None = None,
    ) -> list[Measurement]:
        """As perse_compile.tuning.measure.measure, on all servers at once. Raises the same."""
        return _Measuring(self, batch, target, threads, effort or Effort()).run({} if results is None else results)


class _Measuring:
    """One batch on its way through the servers; only the thread that calls `run` changes it."""

    def __init__(self, farm: Farm, batch: Sequence[Candidate], target: Target, threads: int, effort: Effort) -> None:
        self.farm, self.batch, self.target = farm, batch, target
        self.options = effort.options(target, threads)
        self.limit = effort.limit
        self.unprepared = [list(range(i, min(i + GROUP, len(batch)))) for i in range(0, len(batch), GROUP)]
        self.waiting: list[_Group] = []
        self.done: list[_Group] = []
        self.attempts: list[_Attempt] = []
        self.ended: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self.refused = set(farm.unfit)  # servers that get nothing more
        self.servers = 1

    def run(self, results: dict[str, Sums]) -> list[Measurement]:
        stopped: DeviceError | None = None
        with ExitStack() as folders:
            try:
                self._measure_all(folders)
            except DeviceError as error:
                stopped = error
            measured = {}
            for group in sorted(self.done, key=lambda group: group.numbers):
                answers = read_answers(group.batch, group.lines or [], results)
                measured.update({group.numbers[place]: measurement for place, measurement in answers.items()})
        if stopped is not None:
            raise MeasuringStopped(str(stopped), measured) from stopped
        return [measured[number] for number in range(len(self.batch))]

    def _measure_all(self, folders: ExitStack) -> None:
        """Prepare groups just ahead of the servers, hand them out, collect. Raises DeviceError."""
        checked = -1.0
        while self.unprepared or self.waiting or self.attempts:
            if time.monotonic() - checked > 1:
                checked = time.monotonic()
                self._look_who_is_there()
            while self.waiting and len(self.attempts) < self.servers:
                self._start(self.waiting.pop(0))
            if self.unprepared and len(self.waiting) < self.servers:
                self._prepare(self.unprepared.pop(0), folders)
            else:
                self._collect()

    def _look_who_is_there(self) -> None:
        known = self.farm.tracker.servers(PATIENCE)
        if known and known <= set(self.farm.unfit):
            raise Refused(f"no server is left: {next(self.farm.unfit[server] for server in sorted(known))}")
        self.servers = max(1, len(known - self.refused))

    def _prepare(self, numbers: list[int], folders: ExitStack) -> None:
        candidates = [self.batch[number] for number in numbers]
        group = _Group(numbers, folders.enter_context(prepared(candidates, self.target, link_batch_library)))
        (self.waiting if group.batch.numbers else self.done).append(group)

    def _start(self, group: _Group) -> None:
        attempt = _Attempt(group, time.monotonic() + 2 * PATIENCE)
        self.attempts.append(attempt)
        threading.Thread(target=self._attempt, args=(attempt,), daemon=True).start()

    def _attempt(self, attempt: _Attempt) -> None:
        """In a thread of its own, which is left behind should TVM not come back from a dead connection."""
        try:
            until = time.monotonic() + PATIENCE
            while attempt.server is None or attempt.server in self.refused:
                place = self.farm.tracker.request(max(0.1, until - time.monotonic()))
                attempt.server = f"{place[0]}:{place[1]}"
            limit = PATIENCE + (self.limit + 1) * len(attempt.group.batch.numbers)
            attempt.until = time.monotonic() + limit
            attempt.lines = measure_there(place, attempt.group.batch, self.options, limit)
        except DeviceError as error:
            attempt.error = type(error)(str(error))  # without the frames, which would keep the session open
        except Exception as error:  # a bug, to be seen in the thread that called run
            attempt.error = error
        finally:
            self.ended.put(attempt)

    def _collect(self) -> None:
        try:
            attempt = self.ended.get(timeout=0.2)
        except queue.Empty:
            for attempt in [late for late in self.attempts if time.monotonic() > late.until]:
                self._end(attempt, Lost("does not answer"))
            return
        if attempt in self.attempts:  # else it was given up
            self._end(attempt, attempt.error)

    def _end(self, attempt: _Attempt, error: Exception | None) -> None:
        self.attempts.remove(attempt)
        group = attempt.group
        if error is None:
            group.lines = attempt.lines
            self.done.append(group)
            self.farm.served[str(attempt.server)] += len(group.batch.numbers)
        elif isinstance(error, Lost):
            self._lose(str(attempt.server), group, error)
        elif isinstance(error, Refused):
            self._leave_out(str(attempt.server), error)
            self.waiting.insert(0, group)
        elif isinstance(error, NobodyFree) and any(other.server is not None for other in self.attempts):
            self.waiting.insert(0, group)  # those that are there are at work
        else:
            raise error

    def _leave_out(self, server: str, error: Refused) -> None:
        self.farm.unfit[server] = str(error)
        self.refused.add(server)
        self._look_who_is_there()

    def _lose(self, server: str, group: _Group, error: Lost) -> None:
        self.farm.lost.append(f"{server} ({error})")
        self.refused.add(server)
        group.tries += 1
        if group.tries == TRIES:
            raise DeviceError(f"{TRIES} servers were lost with the same candidates; the last: {server} {error}")
        self.waiting.insert(0, group)
