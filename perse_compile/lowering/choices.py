"""Which knobs a kernel is built with: remembered ones where there are any that fit, else the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perse_compile.lowering import defaults, legal
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.schedules.elementwise import HeadKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target

Knobs = ConvKnobs | DepthwiseKnobs | HeadKnobs
K = TypeVar("K", ConvKnobs, DepthwiseKnobs, HeadKnobs)


@dataclass(frozen=True)
class Chosen:
    """Knobs and why: default, modelled, or measured and where."""

    knobs: Knobs
    how: str = "default"
    where: str = ""


Remembered = Callable[[Workload], Chosen | None]


def nothing(work: Workload) -> Chosen | None:
    """A memory that remembers nothing."""
    return None


@dataclass
class Choices:
    """What lowering asks. `made` says afterwards what was decided for every workload it met, `last` whose knobs the
    last kernel was built with."""

    target: Target
    remembered: Remembered = nothing
    made: dict[Workload, Chosen] = field(default_factory=dict)
    last: Workload | None = None

    def decide(self, work: Workload, kind: type[K]) -> K:
        """The knobs to build a kernel with; the same at every call."""
        self.last = work
        knobs = self.choose(work).knobs
        assert isinstance(knobs, kind), (work, knobs)
        return knobs

    def choose(self, work: Workload) -> Chosen:
        """Knobs and why, for those who only want to know."""
        if work not in self.made:
            found = self.remembered(work)
            if found is None or not legal.is_legal(work, found.knobs, self.target):
                found = Chosen(default(work, self.target))
            self.made[work] = found
        return self.made[work]

    def summary(self) -> dict[str, Any]:
        """Workloads whose knobs were measured (`where`), modelled, or are the defaults."""
        chosen = self.made.values()
        counts = {how: sum(c.how == how for c in chosen) for how in ("measured", "modelled", "default")}
        return {**counts, "where": sorted({c.where for c in chosen if c.where})}


def default(work: Workload, target: Target) -> Knobs:
    """Knobs without tuning."""
    if work.family == "conv":
        return defaults.conv_knobs(work, target)
    if work.family == "product":
        return defaults.product_knobs(work, target)
    if work.family == "head":
        return defaults.head_knobs(work, target)
    return defaults.window_knobs(work, target)
