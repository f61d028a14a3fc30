"""Kernels as object files, each compiled once however many candidates share it: Winograd's transforms, the default."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tvm_ffi
from tvm import tirx

from perse_compile.lowering.kernels.scope import KernelCall
from perse_compile.targets import Target
from perse_compile.tuning.compiler import the_compiler


@dataclass(frozen=True)
class Compiled:
    """One kernel: the name it defines, its object file, and the extents of its parallel loops."""

    symbol: str
    path: Path
    launches: tuple[int, ...]


@dataclass
class Objects:
    """What was compiled for one target so far; files live as long as the process."""

    target: Target
    folder: tempfile.TemporaryDirectory[str]
    known: dict[tuple[int, str], list[tuple[tirx.PrimFunc, Compiled]]]
    count: int = 0

    def compile(self, call: KernelCall) -> Compiled:
        """Raises DoesNotCompile, and BuildError."""
        same = self.known.setdefault((tvm_ffi.structural_hash(call.func), repr(call.schedule)), [])
        for func, compiled in same:
            if tvm_ffi.structural_equal(func, call.func):
                return compiled
        symbol = f"perse_k{self.count}"
        path = Path(self.folder.name) / f"{symbol}.o"
        self.count += 1
        made = Compiled(symbol, path, the_compiler().compile(call.schedule, call.func, symbol, self.target, path))
        same.append((call.func, made))
        return made


@functools.cache
def objects_for(target: Target) -> Objects:
    return Objects(target, tempfile.TemporaryDirectory(prefix="perse-kernels-"), {})
