"""What is measured, and what measuring it gives."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from perse_compile.lowering.kernels.scope import KernelCall, Stored


@dataclass(frozen=True)
class Candidate:
    """One way to compute one task."""

    calls: list[KernelCall]  # in order; the last one's output is the task's result. Schedules are yet to be applied
    task: str  # what it computes, logical weights included: candidates of one task must give the same result
    images: tuple[Stored, ...] = ()  # inputs with margins or gaps; what lies there is then 0, as kernels may rely on


@dataclass(frozen=True)
class Measurement:
    """Seconds or instructions if it worked, else the error."""

    seconds: tuple[float, ...] = ()  # of every repeat
    instructions: int | None = None  # executed in one run under the emulator; never compare with seconds
    error: str | None = None  # "does not compile: ...", "crashed (signal 11)", "took longer than 10 s", "wrong result"

    @property
    def cost(self) -> float:
        """Less is better, among measurements of one device; infinite when it failed."""
        if self.error is not None:
            return float("inf")
        return float(self.instructions) if self.instructions is not None else statistics.median(self.seconds)
