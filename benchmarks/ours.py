"""An artifact's library in this process, for benchmarks that time it or compare its results."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host import compile_c, write_artifact

from perse_compile.lowering.choices import Choices
from perse_compile.program import Program

Call = Callable[[], Any]


class Result(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_int),
        ("exit", ctypes.c_int),
        ("confidence", ctypes.c_float),
        ("stages", ctypes.c_int),
    )


class Ours:
    """An artifact in this process, through its library, with more C files in it if wanted."""

    def __init__(self, program: Program, folder: Path, *sources: str, choices: Choices | None = None) -> None:
        self.network = write_artifact(program, folder, choices)
        compile_c(folder, "libperse.so", "-shared", "-fPIC", *sources)
        self.folder = folder
        self.library = ctypes.CDLL(str(folder / "libperse.so"))
        self.library.perse_memory_size.restype = ctypes.c_size_t
        self.library.perse_detail.restype = ctypes.c_char_p
        self.exits, self.classes = len(program.exits), len(program.classes)

    @contextlib.contextmanager
    def session(self, threads: int) -> Iterator[ctypes.c_void_p]:
        """The library's handle, for as long as it is open."""
        size = self.library.perse_memory_size(threads)
        room, handle = mmap.mmap(-1, size), ctypes.c_void_p()  # resident only where it is used
        memory = ctypes.c_char.from_buffer(room)
        arguments = (str(self.folder).encode(), threads, ctypes.byref(memory), ctypes.c_size_t(size))
        status = self.library.perse_open(ctypes.byref(handle), *arguments)
        if status != 0:
            raise SystemExit(f"perse_open: status {status}, {self.library.perse_detail().decode()}")
        try:
            yield handle
        finally:
            self.library.perse_close(handle)  # its threads use `memory`

    @contextlib.contextmanager
    def opened(self, x: torch.Tensor, threads: int) -> Iterator[Callable[[int], Call]]:
        """For as long as it is open: what runs the network to a given exit."""
        pixels = np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())
        logits, result = np.empty(self.classes, np.float32), Result()
        with self.session(threads) as handle:

            def run(exit: int) -> np.ndarray[Any, Any]:
                address = ctypes.c_void_p(pixels.ctypes.data), exit, ctypes.byref(result)
                status = self.library.perse_run_f32(handle, *address, ctypes.c_void_p(logits.ctypes.data))
                assert status == 0 and result.stages == exit + 1, status
                return logits

            yield lambda exit: lambda: run(exit)
