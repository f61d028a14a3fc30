"""Where candidates are ranked: measured on a device, counted under the emulator, or by arithmetic alone."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perse_compile import devices
from perse_compile.devices import Device
from perse_compile.targets import Target
from perse_compile.tuning.candidate import Candidate, Measurement
from perse_compile.tuning.measure import Sums, measure
from perse_compile.tuning.records import MEASURED, MODELLED

MODEL = "model"  # name of no device at all


@dataclass
class Bench:
    """A device, or None for the model."""

    target: Target
    device: Device | None
    threads: int = 1
    results: dict[str, Sums] = field(default_factory=dict)  # what candidates of each task compute

    @property
    def timed(self) -> bool:
        """Whether it takes time, so that measurements differ from one to the next."""
        return self.device is not None and self.device.name != "emulator"

    @property
    def how(self) -> str:
        return MEASURED if self.timed else MODELLED

    @property
    def unit(self) -> str:
        if self.device is None:
            return "points"
        return "seconds" if self.timed else "instructions"

    @property
    def where(self) -> str:
        """What a record is of: the processor, or what stands for one."""
        if self.device is None:
            return "arithmetic"
        return processor() if self.timed else "instructions under the emulator"

    def measure(self, batch: Sequence[Candidate]) -> list[Measurement]:
        """Raises DeviceError and BuildError."""
        assert self.device is not None
        return measure(batch, self.target, self.device, threads=self.threads, results=self.results)


def bench_for(target: Target, device: str | None, threads: int = 1) -> Bench:
    """The device of that name; None means the best at hand. Raises DeviceError."""
    if device == MODEL:
        return Bench(target, None, threads)
    if device is not None:
        return Bench(target, devices.find(device, target.machine, target.emulator), threads)
    return Bench(target, devices.any_device(target.machine, target.emulator), threads)


def processor() -> str:
    """What this machine's processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
