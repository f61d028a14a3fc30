"""A process that compiles one kernel after another for `compiler.py`: one that hangs or explodes ends it, nothing else.

It reads pickles (request, seconds that it may take) from its standard input until that ends, where a request is a
pickle of (schedule, function, name, target, path), and answers each with (extents of the parallel loops, None) or
(None, what is wrong).
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys

MEMORY = 4 << 30  # bytes of address space; what it has at the start is half a gigabyte


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM imports it where it is, which takes seconds
    from perse_compile.building.object_code import compile_kernels, launches

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def compiled(request: bytes) -> list[int]:
        schedule, func, name, target, path = pickle.loads(request)
        return launches(compile_kernels({name: schedule(func)}, target, path)[name].body)

    pickle.dump("ready", answers)
    answers.flush()
    while True:
        try:
            request, limit = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, limit)  # SIGALRM ends the process, in the middle of LLVM too
        answer: tuple[list[int] | None, str | None]
        try:
            answer = compiled(request), None
        except Exception as error:  # whatever TVM and LLVM say of a schedule
            answer = None, str(error).strip() or type(error).__name__
        signal.setitimer(signal.ITIMER_REAL, 0)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
