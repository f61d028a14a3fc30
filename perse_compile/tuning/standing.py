"""How far the tuning of each task is, and which one is worth the next batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from perse_compile.lowering.choices import Knobs
from perse_compile.tuning.search import Search
from perse_compile.tuning.tasks import Task

RECENT = 3  # batches
TRUST = 0.2  # in recent gains, against what is still imaginable


@dataclass
class Standing:
    """One task: what its default knobs take, and what is known of others, relative to them in the same batch."""

    task: Task
    search: Search
    usual: float = math.inf  # of the default knobs, in the bench's unit
    ratios: dict[Knobs, float] = field(default_factory=dict)  # infinite for a failure
    chosen: Knobs | None = None  # the last winner that was measured against the default again
    gain: float = 1.0  # its time over the default's then
    done: bool = False  # nothing left to propose
    _history: list[float] = field(default_factory=list)  # best ratio after each batch

    @property
    def tried(self) -> int:
        """Knobs measured besides the default."""
        return len(self.ratios)

    @property
    def best(self) -> tuple[Knobs, float]:
        """The best knobs so far, and their time over the default's."""
        knobs = min(self.ratios, key=lambda each: self.ratios[each], default=None)
        if knobs is None or self.ratios[knobs] >= 1:
            return self.task.default, 1.0
        return knobs, self.ratios[knobs]

    @property
    def now(self) -> float:
        """What its time comes to with the best knobs, over the default's; those that won again count alone."""
        return self.gain if self.chosen is not None else self.best[1]

    @property
    def time(self) -> float:
        """Of one image, with default knobs."""
        return self.task.count * self.usual

    def top(self, count: int) -> list[Knobs]:
        """The best knobs that seem better than the default."""
        better = [knobs for knobs, ratio in self.ratios.items() if ratio < 1]
        return sorted(better, key=lambda knobs: self.ratios[knobs])[:count]

    def note(self, ratios: dict[Knobs, float]) -> None:
        """The answers to a batch."""
        self.ratios.update(ratios)
        self._history.append(self.best[1])

    @property
    def promise(self) -> float:
        """Time that one more batch may save, as GradientBased of MetaSchedule estimates it.

        What the last batches gained, and that n batches more may gain what is left, one n-th each.
        """
        if self.done or not math.isfinite(self.usual):
            return 0.0
        batches = len(self._history)
        if batches == 0:
            return self.time
        start = self._history[-RECENT - 1] if batches > RECENT else 1.0
        recent = (start - self._history[-1]) / min(batches, RECENT)
        return self.time * (TRUST * recent + (1 - TRUST) * self._history[-1] / (batches + 1))


def next_task(standings: Sequence[Standing]) -> Standing | None:
    """Where the next batch promises most; None when nothing is left anywhere."""
    best = max(standings, key=lambda standing: standing.promise, default=None)
    return best if best is not None and best.promise > 0 else None
