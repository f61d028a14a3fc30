"""Candidates measured on a device: compiled into one static executable, which runs each in a process of its own."""

from __future__ import annotations

import errno
import functools
import json
import math
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from perse_compile import devices, targets
from perse_compile.building.link import RUNTIME, compile_c, link_executable, zig
from perse_compile.devices import Device
from perse_compile.errors import DeviceError
from perse_compile.targets import Target
from perse_compile.tuning.batch import Batch, write_batch
from perse_compile.tuning.candidate import Candidate, Measurement
from perse_compile.tuning.instructions import Marked

__all__ = ["Candidate", "Effort", "Measurement", "MeasuringStopped", "measure"]

PROGRAM = Path(__file__).parent / "program"
OF_THE_RUNTIME = ("base.c", "threads.c")
TOLERANCE = 1e-3  # of a slice of the result, relative to its norm
EMULATED = 10  # times the limit that a candidate gets under the emulator
PATIENCE = 60.0  # seconds beyond the limits of all candidates, for starting and ending


@dataclass(frozen=True)
class Effort:
    """How much time a candidate gets."""

    repeats: int = 7  # at least
    seconds: float = 0.05  # of all repeats together, at least, except of very short kernels
    limit: float = 10.0  # seconds with everything; then it is killed
    sweep: int | None = None  # bytes that each thread writes before a repeat; None: twice the L2


CHECK = Effort(repeats=0, seconds=0, limit=60, sweep=0)  # one run, for its result


class MeasuringStopped(DeviceError):
    """The device went away. `measured`: by number in the batch, what it had said before."""

    def __init__(self, message: str, measured: dict[int, Measurement]) -> None:
        super().__init__(message)
        self.measured = measured


Sums = tuple[tuple[float, ...], tuple[float, ...]]  # of the slices of a result, and their norms


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
    if device.name == "emulator":
        return _count(batch, target, device, effort, results)
    with _written(batch, target) as written:
        return _run(written, device, threads, effort, results)


@contextmanager
def _written(batch: Sequence[Candidate], target: Target) -> Iterator[Batch]:
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perse-tuning-")))
            written = write_batch(batch, target, folder)
            if written.numbers:
                _link(written, target)
        except OSError as error:
            raise DeviceError(
                f"cannot write a batch of candidates: {error}; free some space here, or set TMPDIR"
            ) from error
        yield written


def _link(batch: Batch, target: Target) -> None:
    """The executable `batch` in its folder. Raises BuildError."""
    for path in sorted(Path(_program(target).name).iterdir()):
        shutil.copyfile(path, batch.folder / path.name)
    objects = [*compile_c(batch.folder, ["batch.c"], zig(target)), *_program_objects(), *batch.objects]
    link_executable(batch.folder, objects, "batch", target)


def _program_objects() -> list[str]:
    return [f"{path.stem}.o" for path in sources()]


def sources() -> list[Path]:
    return [*sorted(PROGRAM.glob("*.c")), *(RUNTIME / name for name in OF_THE_RUNTIME)]


@functools.cache
def _program(target: Target) -> tempfile.TemporaryDirectory[str]:
    """The measuring program and what it takes of the runtime as object files, with headers; once per process."""
    kept = tempfile.TemporaryDirectory(prefix="perse-measuring-")
    folder = Path(kept.name)
    for path in [*sources(), *PROGRAM.glob("*.h"), *RUNTIME.glob("*.h")]:
        shutil.copyfile(path, folder / path.name)
    compile_c(folder, [path.name for path in sources()], zig(target))
    for path in folder.glob("*.c"):
        path.unlink()
    return kept


def _run(batch: Batch, device: Device, threads: int, effort: Effort, results: dict[str, Sums]) -> list[Measurement]:
    measured = {number: Measurement(error=error) for number, error in batch.failed.items()}
    sweep = 2 * 1024 * batch.target.l2_kilobytes if effort.sweep is None else effort.sweep
    options = {"threads": threads, "repeats": effort.repeats, "seconds": effort.seconds, "limit": effort.limit}
    arguments = [text for key, value in {**options, "sweep": sweep}.items() for text in (f"--{key}", str(value))]
    if batch.numbers:
        with tempfile.TemporaryFile("w+") as output:
            stopped = _execute(batch, device, arguments, effort.limit, output)
            output.seek(0)
            for line in output:
                if line.endswith("\n"):
                    _enter(batch, json.loads(line), measured, results)
        if stopped is None and len(measured) < len(batch.candidates):
            stopped = f"{device.name} answered for fewer candidates than it was given"
        if stopped is not None:
            raise MeasuringStopped(stopped, measured)
    return [measured[number] for number in range(len(batch.candidates))]


def _execute(batch: Batch, device: Device, arguments: list[str], limit: float, output: IO[str]) -> str | None:
    """Run the program; gives what stopped it before its end. Raises DeviceError when it does not start."""
    command = [*device.prefix, str(batch.folder / "batch"), str(batch.folder / "batch.data"), *arguments]
    try:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        what = "it is of another architecture" if error.errno == errno.ENOEXEC else error.strerror
        raise DeviceError(
            f"{device.name} cannot run code for {batch.target.name}: {what}; see --target and --device"
        ) from error
    try:
        _, complaints = process.communicate(timeout=PATIENCE + (limit + 1) * len(batch.numbers))
    except subprocess.TimeoutExpired:
        return f"{device.name} stopped answering"
    finally:
        process.kill()
        process.wait()
    if process.returncode < 0:
        return f"measuring on {device.name} was stopped by signal {-process.returncode}"
    if process.returncode > 0:
        lines = complaints.strip().splitlines() or [f"status {process.returncode}"]
        return f"measuring on {device.name} failed: {lines[-1]}"
    return None


def _enter(batch: Batch, answer: dict[str, Any], measured: dict[int, Measurement], results: dict[str, Sums]) -> None:
    number = answer["candidate"]
    if "error" in answer:
        measured[number] = Measurement(error=answer["error"])
        return
    sums = tuple(answer["sums"]), tuple(answer["norms"])
    wrong = not _agree(results.setdefault(batch.candidates[number].task, sums), sums)
    measured[number] = Measurement(error="wrong result") if wrong else Measurement(tuple(answer["seconds"]))


def _agree(known: Sums, sums: Sums) -> bool:
    """Of each slice the sum with signs by chance: a wrong element changes it by its own size, rounding by little."""
    scale = max(*known[1], 1e-30)
    return len(known[0]) == len(sums[0]) and all(
        math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE * (norm + 0.01 * scale))
        for a, b, norm in zip(known[0], sums[0], known[1], strict=True)
    )


def _count(
    batch: Sequence[Candidate], target: Target, device: Device, effort: Effort, results: dict[str, Sums]
) -> list[Measurement]:
    """Instructions under the emulator. Whether results are right is tried with the same schedules on this machine."""
    with _written(batch, _this_machine()) as here:
        checked = _run(here, devices.find("local", here.target.machine, here.target.emulator), 1, CHECK, results)
    right = [number for number, measurement in enumerate(checked) if measurement.error is None]
    with _written([batch[number] for number in right], target) as written:
        if written.numbers:
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
