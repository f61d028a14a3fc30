"""Instructions that an executable executes, counted under emulation.

The emulator translates a program block by block. Asked to, it prints every block it translates with the block's
instructions (`-d in_asm`) and every block it runs (`-d exec,nochain`): the sum of the lengths of the blocks it ran is
the number of instructions executed.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from perse_compile.errors import DeviceError

LOG = ["-d", "in_asm,exec,nochain"]
T = TypeVar("T")


def count(command: list[str]) -> int:
    """Instructions of a whole program; `command` begins with the emulator. Raises DeviceError when it fails."""
    return sum(_run(command, partial(_segments, mark=None))[0])


def count_by_function(command: list[str], names: Collection[str]) -> Counter[str]:
    """The same from each of these functions on, until the next of them; "" for what comes before. The program must
    have its symbols."""
    return _run(command, partial(_shares, names=frozenset(name.encode() for name in names)))[0]


@dataclass(frozen=True)
class Marked:
    """The measuring program of a batch, for counting its candidates one by one."""

    emulator: str
    executable: Path
    data: Path
    mark: int  # address of the function that it calls between the parts of a run

    @classmethod
    def of(cls, emulator: str, executable: Path, data: Path) -> Marked:
        """Raises DeviceError."""
        command = [emulator, str(executable), str(data), "--mark"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise DeviceError(f"{executable.name} does not run under {emulator}: {result.stderr.strip()}")
        return cls(emulator, executable, data, int(result.stdout))

    def count(self, number: int, limit: float) -> int:
        """Instructions of one run of a candidate, without what comes before and after.

        A parallel loop is cut into at most 64 pieces of equal length, of which the first, one in the middle and the
        last run: the last counts once, since it may be shorter, the mean of the others for all others. Code between
        the loops counts as it is. Values are then not right, which no kernel's course depends on. Raises DeviceError
        when the program fails or takes longer than `limit` seconds.
        """
        command = [self.emulator, str(self.executable), str(self.data), "--marked", str(number)]
        segments, output = _run(command, partial(_segments, mark=self.mark), limit)
        total, at = sum(segments[1:-1:2]), 2  # before the run, between loops, piece, between, piece, ..., after
        for pieces, ran in json.loads(output):
            run = segments[at : at + 2 * ran : 2]
            at += 2 * ran
            total += run[-1] + (round((pieces - 1) * sum(run[:-1]) / (ran - 1)) if ran > 1 else 0)
        return total


def _run(command: list[str], read: Callable[[IO[bytes]], T], limit: float | None = None) -> tuple[T, str]:
    """What `read` makes of the log of a program, and what the program printed."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([command[0], *LOG, *command[1:]], stdout=output, stderr=subprocess.PIPE)
        timer = threading.Timer(limit, process.kill) if limit is not None else None
        try:
            if timer:
                timer.start()
            assert process.stderr is not None
            with process:
                found = read(process.stderr)
        finally:
            late = timer is not None and not timer.is_alive()
            if timer:
                timer.cancel()
        if late:
            raise DeviceError(f"took longer than {limit:g} s")
        if process.returncode < 0:
            raise DeviceError(f"crashed (signal {-process.returncode})")
        if process.returncode != 0:
            raise DeviceError(f"{Path(command[1]).name} ended with status {process.returncode}")
        output.seek(0)
        return found, output.read()


def _blocks(log: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Every block that ran: its address, its instructions, and the line that says so, which ends with its function."""
    lengths: dict[int, int] = {}
    first, inside = 0, False
    for line in log:
        if line.startswith(b"Trace"):
            inside = False
            address = int(line.split(b"/", 2)[1], 16)
            yield address, lengths[address], line
        elif line.startswith(b"0x"):
            if not inside:
                first, inside = int(line[2 : line.index(b":")], 16), True
                lengths[first] = 0
            lengths[first] += 1
        else:
            inside = False


def _segments(log: IO[bytes], mark: int | None) -> list[int]:
    """Instructions before, between and after the runs of the block at `mark`."""
    segments, total = [], 0
    for address, length, _ in _blocks(log):
        if address == mark:
            segments.append(total)
            total = 0
        total += length
    return [*segments, total]


def _shares(log: IO[bytes], names: frozenset[bytes]) -> Counter[str]:
    shares: Counter[str] = Counter()
    current = ""
    for _, length, line in _blocks(log):
        name = line[line.rindex(b"]") + 1 :].strip()
        if name in names:
            current = name.decode()
        shares[current] += length
    return shares
