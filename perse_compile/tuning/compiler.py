"""Kernels compiled in a process of their own, within a time and a memory: what exceeds them costs one candidate."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm import tirx

from perse_compile.errors import BuildError
from perse_compile.lowering.kernels.scope import Scheduler
from perse_compile.targets import Target

LIMIT = 30.0  # seconds for one kernel; most take a tenth of one


class DoesNotCompile(Exception):
    """A candidate's kernel; the message is one line."""


@dataclass
class Compiler:
    """Starts the process when it is needed, and again after a kernel that ended it."""

    _process: subprocess.Popen[bytes] | None = None

    def compile(
        self, schedule: Scheduler, func: tirx.PrimFunc, name: str, target: Target, path: Path
    ) -> tuple[int, ...]:
        """Write an object file; gives the extents of the parallel loops. Raises DoesNotCompile, and BuildError."""
        process = self._process or self._start()
        try:
            extents, wrong = self._ask(process, pickle.dumps((schedule, func, name, target, path)))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self._end(process)
            if status == -signal.SIGALRM:
                raise DoesNotCompile(f"takes longer than {LIMIT:g} s") from error
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise DoesNotCompile(f"the compiler died ({how})") from error
        except BaseException:  # Ctrl-C: an answer that nobody waits for must not be the next one's
            self.close()
            raise
        if wrong is not None:
            raise DoesNotCompile(wrong.splitlines()[-1].strip()[:200])
        return tuple(extents)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._end(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C is not for it. When this process dies, its input ends and so does it."""
        command = [sys.executable, "-m", "perse_compile.tuning.compiler_process"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        with tempfile.TemporaryFile("w+") as complaints:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=environment,
                start_new_session=True,
            )  # fmt: skip
            self._process = process
            try:
                self._answer(process)
            except EOFError as error:
                self._end(process)
                complaints.seek(0)
                last = (complaints.read().splitlines() or ["it says nothing"])[-1]
                raise BuildError(f"cannot start the process that compiles candidates: {last}") from error
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: bytes) -> Any:
        assert process.stdin is not None
        pickle.dump((request, LIMIT), process.stdin)
        process.stdin.flush()
        return self._answer(process)

    def _answer(self, process: subprocess.Popen[bytes]) -> Any:
        assert process.stdout is not None
        return pickle.load(process.stdout)

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """Its status; pipes are closed."""
        self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return process.wait()


@functools.cache
def the_compiler() -> Compiler:
    """One for this process."""
    made = Compiler()
    atexit.register(made.close)
    return made
