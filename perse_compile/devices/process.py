"""A process that is listened to while it works, and stopped when it takes too long or Ctrl-C is pressed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from perse_compile.errors import DeviceError, DeviceTimeout

PATIENCE = 5.0  # seconds between asking a process to stop and killing it


def start(command: Sequence[str], *, output: IO[str] | None, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """In a session of its own, so that Ctrl-C reaches us alone; without `output`, stdout comes with stderr.

    Raises DeviceError.
    """
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    streams: dict[str, Any] = {"stdout": output, "stderr": subprocess.PIPE} if output is not None else both
    try:
        return subprocess.Popen(command, stdin=stdin, text=True, errors="replace", start_new_session=True, **streams)
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]}: {error.strerror}; is the artifact complete?") from error


def listen(
    process: subprocess.Popen[str],
    follow: Callable[[str], None],
    timeout: float | None,
    stop: Callable[[subprocess.Popen[str]], None],
    what: str,
) -> int:
    """Its exit status; every line of its stderr goes to `follow`. `stop` ends it, here and wherever it works."""
    late = threading.Event()

    def too_late() -> None:
        late.set()
        stop(process)

    timer = threading.Timer(timeout, too_late) if timeout is not None else None
    with process:
        try:
            if timer is not None:
                timer.start()
            for line in process.stderr or process.stdout or ():
                follow(line.rstrip("\r\n"))
            status = process.wait()
        except BaseException:
            stop(process)
            raise
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
    if late.is_set():
        raise DeviceTimeout(f"{what} took longer than {timeout:g} s and was stopped")
    return status


def kill(process: subprocess.Popen[str]) -> None:
    """The process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def hang_up(process: subprocess.Popen[str]) -> None:
    """End the client of a remote process: the end of its stdin makes the other side kill what works there."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill(process)
