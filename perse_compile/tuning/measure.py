"""Candidates measured on a device: compiled into one static executable, which runs each in a process of its own."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from perse_compile import devices, targets
from perse_compile.devices import Device, LocalDevice
from perse_compile.errors import DeviceError, DeviceLost, DeviceTimeout
from perse_compile.targets import Target
from perse_compile.tuning.answers import Sums, read_answers
from perse_compile.tuning.batch import Batch, write_batch
from perse_compile.tuning.candidate import Candidate, Measurement
from perse_compile.tuning.instructions import Marked
from perse_compile.tuning.linking import link_batch

__all__ = ["Candidate", "Effort", "Measurement", "MeasuringStopped", "Sums", "measure", "prepared"]

EMULATED = 10  # times the limit that a candidate gets under the emulator
PATIENCE = 60.0  # seconds beyond the limits of all candidates, for starting and ending


@dataclass(frozen=True)
class Effort:
    """How much time a candidate gets."""

    repeats: int = 7  # at least
    seconds: float = 0.05  # of all repeats together, at least, except of very short kernels
    limit: float = 10.0  # seconds with everything; then it is killed
    sweep: int | None = None  # bytes that each thread writes before a repeat; None: twice the L2

    def options(self, target: Target, threads: int) -> dict[str, float]:
        """What the measuring program is told, in the order of perse_effort."""
        sweep = 2 * 1024 * target.l2_kilobytes if self.sweep is None else self.sweep
        return {
            "threads": threads, "repeats": self.repeats, "seconds": self.seconds, "limit": self.limit, "sweep": sweep,
        }  # fmt: skip


CHECK = Effort(repeats=0, seconds=0, limit=60, sweep=0)  # one run, for its result


class MeasuringStopped(DeviceError):
    """The device went away. `measured`: by number in the batch, what it had said before."""

    def __init__(self, message: str, measured: dict[int, Measurement]) -> None:
        super().__init__(message)
        self.measured = measured


def measure(
    batch: Sequence[Candidate],
    target: Target,
    device: Device,
    *,
    threads: int = 1,
    effort: Effort | None = None,
    results: dict[str, Sums] | None = None,
) -> list[Measurement]:
    """One measurement for each candidate, in order.

    `results`: what the tasks' results are, filled in by each task's first candidate that works; give the same dict
    again and a candidate of a later batch is compared with them too. Under the emulator instructions are counted and
    nothing is timed. Raises MeasuringStopped, DeviceError and BuildError.
    """
    effort, results = effort or Effort(), {} if results is None else results
    if device.kind == "emulator":
        return _count(batch, target, device, effort, results)
    with prepared(batch, target) as written:
        return _run(written, device, threads, effort, results)


@contextmanager
def prepared(batch: Sequence[Candidate], target: Target, link: Callable[[Batch], Path] = link_batch) -> Iterator[Batch]:
    """The batch compiled and linked, in a folder that is gone afterwards. Raises DeviceError and BuildError."""
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perse-tuning-")))
            written = write_batch(batch, target, folder)
            if written.numbers:
                link(written)
        except OSError as error:
            raise DeviceError(
                f"cannot write a batch of candidates: {error}; free some space here, or set TMPDIR"
            ) from error
        yield written


def _run(batch: Batch, device: Device, threads: int, effort: Effort, results: dict[str, Sums]) -> list[Measurement]:
    options = effort.options(batch.target, threads)
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    with tempfile.TemporaryFile("w+") as output:
        stopped = _execute(batch, device, arguments, effort.limit, output) if batch.numbers else None
        output.seek(0)
        measured = read_answers(batch, output, results)
    if stopped is None and len(measured) < len(batch.candidates):
        stopped = f"{device.name} answered for fewer candidates than it was given"
    if stopped is not None:
        raise MeasuringStopped(stopped, measured)
    return [measured[number] for number in range(len(batch.candidates))]


def _execute(batch: Batch, device: Device, arguments: list[str], limit: float, output: IO[str]) -> str | None:
    """Run the program; gives what stopped it before its end. Raises DeviceError when it does not start."""
    complaints: list[str] = []
    patience = PATIENCE + (limit + 1) * len(batch.numbers)
    with device.lend(batch.folder / "batch") as program, device.lend(batch.folder / "batch.data") as data:
        try:
            status = device.run([program, data, *arguments], output=output, follow=complaints.append, timeout=patience)
        except DeviceTimeout:
            return f"{device.name} stopped answering"
        except DeviceLost as error:
            return str(error)
        except DeviceError as error:
            raise DeviceError(
                f"{device.name} cannot run code for {batch.target.name}: {error}; see --target and --device"
            ) from error
    if status < 0:
        return f"measuring on {device.name} was stopped by signal {-status}"
    if status > 0:
        return f"measuring on {device.name} failed: {(complaints or [f'status {status}'])[-1]}"
    return None


def _count(
    batch: Sequence[Candidate], target: Target, device: Device, effort: Effort, results: dict[str, Sums]
) -> list[Measurement]:
    """Instructions under the emulator. Whether results are right is tried with the same schedules on this machine."""
    with prepared(batch, _this_machine()) as here:
        checked = _run(here, devices.find("local", here.target.machine, here.target.emulator), 1, CHECK, results)
    right = [number for number, measurement in enumerate(checked) if measurement.error is None]
    with prepared([batch[number] for number in right], target) as written:
        if written.numbers:
            assert isinstance(device, LocalDevice)
            marked = Marked.of(device.prefix[0], written.folder / "batch", written.folder / "batch.data")
        for place, number in enumerate(right):
            try:
                error = written.failed.get(place)
                counted = None if error is not None else marked.count(place, EMULATED * effort.limit)
                checked[number] = Measurement(instructions=counted, error=error)
            except DeviceError as error:
                checked[number] = Measurement(error=str(error))
    return checked


def _this_machine() -> Target:
    return targets.load("arm64-linux" if platform.machine() == "aarch64" else "x86_64-linux")
