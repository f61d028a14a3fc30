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
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from perse_compile.errors import DeviceError

LOG = ["-d", "in_asm,exec,nochain"]


def count(command: list[str]) -> int:
    """Instructions of a whole program; `command` begins with the emulator. Raises DeviceError when it fails."""
    return sum(_segments(command, None, None)[0])


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
        segments, output = _segments(command, self.mark, limit)
        total, at = sum(segments[1:-1:2]), 2  # before the run, between loops, piece, between, piece, ..., after
        for pieces, ran in json.loads(output):
            run = segments[at : at + 2 * ran : 2]
            at += 2 * ran
            total += run[-1] + (round((pieces - 1) * sum(run[:-1]) / (ran - 1)) if ran > 1 else 0)
        return total


def _segments(command: list[str], mark: int | None, limit: float | None) -> tuple[list[int], str]:
    """Instructions before, between and after the runs of the block at `mark`; and what the program printed."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([command[0], *LOG, *command[1:]], stdout=output, stderr=subprocess.PIPE)
        timer = threading.Timer(limit, process.kill) if limit is not None else None
        try:
            if timer:
                timer.start()
            assert process.stderr is not None
            with process:
                segments = _read_log(process.stderr, mark)
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
        return segments, output.read()


def _read_log(log: IO[bytes], mark: int | None) -> list[int]:
    lengths: dict[int, int] = {}  # of the blocks by address
    segments, total, first, inside = [], 0, 0, False
    for line in log:
        if line.startswith(b"Trace"):
            inside = False
            address = int(line.split(b"/", 2)[1], 16)
            if address == mark:
                segments.append(total)
                total = 0
            total += lengths[address]
        elif line.startswith(b"0x"):
            if not inside:
                first, inside = int(line[2 : line.index(b":")], 16), True
                lengths[first] = 0
            lengths[first] += 1
        else:
            inside = False
    return [*segments, total]
