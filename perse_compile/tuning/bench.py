"""Where candidates are ranked: measured on a device, counted under the emulator, or by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from perse_compile import devices
from perse_compile.devices import Device
from perse_compile.targets import Target
from perse_compile.tuning.candidate import Candidate, Measurement
from perse_compile.tuning.measure import Sums, measure
from perse_compile.tuning.records import MEASURED, MODELLED
from perse_compile.tuning.rpc import Farm

MODEL = "model"  # name of no device at all


@dataclass
class Bench:
    """A device, a farm of them, or None for the model."""

    target: Target
    device: Device | Farm | None
    threads: int = 1
    results: dict[str, Sums] = field(default_factory=dict)  # what candidates of each task compute

    @property
    def timed(self) -> bool:
        """Whether it takes time, so that measurements differ from one to the next."""
        return self.device is not None and not (isinstance(self.device, Device) and self.device.kind == "emulator")

    @property
    def how(self) -> str:
        return MEASURED if self.timed else MODELLED

    @property
    def unit(self) -> str:
        if self.device is None:
            return "points"
        return "seconds" if self.timed else "instructions"

    @cached_property
    def where(self) -> str:
        """What a record is of: the processor, or what stands for one."""
        if self.device is None:
            return "arithmetic"
        if isinstance(self.device, Farm):
            return f"servers under the key {self.device.tracker.key}"
        return self.device.describe().processor if self.timed else "instructions under the emulator"

    @property
    def lost(self) -> list[str]:
        """Servers that went away."""
        return self.device.lost if isinstance(self.device, Farm) else []

    @property
    def served(self) -> dict[str, int]:
        """How many candidates each server measured."""
        return dict(self.device.served) if isinstance(self.device, Farm) else {}

    @property
    def unfit(self) -> list[str]:
        """Servers that were left out, in their words."""
        return list(self.device.unfit.values()) if isinstance(self.device, Farm) else []

    def measure(self, batch: Sequence[Candidate]) -> list[Measurement]:
        """Raises DeviceError and BuildError."""
        assert self.device is not None
        if isinstance(self.device, Farm):
            return self.device.measure(batch, self.target, threads=self.threads, results=self.results)
        return measure(batch, self.target, self.device, threads=self.threads, results=self.results)


def bench_for(target: Target, device: str | None, threads: int = 1) -> Bench:
    """The device of that name; None means the best at hand. Raises DeviceError."""
    if device == MODEL:
        return Bench(target, None, threads)
    if device is not None and device.startswith("rpc:"):
        return Bench(target, Farm.named(device), threads)
    if device is not None:
        return Bench(target, devices.find(device, target.machine, target.emulator), threads)
    return Bench(target, devices.any_device(target.machine, target.emulator), threads)
