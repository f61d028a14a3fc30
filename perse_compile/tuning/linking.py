"""The measuring program, linked with a batch: an executable, or a library for TVM's RPC servers."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from perse_compile.building.link import RUNTIME, compile_c, link_executable, link_library, zig
from perse_compile.targets import Target
from perse_compile.tuning.batch import Batch

PROGRAM = Path(__file__).parent / "program"
COMMON = [PROGRAM / "candidate.c", PROGRAM / "apart.c", RUNTIME / "base.c", RUNTIME / "threads.c"]
EXECUTABLE = [*COMMON, PROGRAM / "main.c"]
LIBRARY = [*COMMON, PROGRAM / "served.c"]
GLIBC = ".2.28"  # the oldest that the servers may have


def link_batch(batch: Batch) -> Path:
    """A static executable. Raises BuildError and OSError."""
    link_executable(batch.folder, _objects(batch, batch.target, EXECUTABLE), "batch", batch.target)
    return batch.folder / "batch"


def link_batch_library(batch: Batch) -> Path:
    """A shared library that a server loads into its own process, hence for that process's C library: glibc."""
    target = replace(batch.target, zig=batch.target.zig.replace("musl", "gnu") + GLIBC)
    link_library(batch.folder, _objects(batch, target, LIBRARY), "batch.so", ["__tvm_ffi_perse_measure"], target)
    return batch.folder / "batch.so"


def _objects(batch: Batch, target: Target, sources: list[Path]) -> list[str]:
    for path in Path(_compiled(target, tuple(sources)).name).iterdir():
        shutil.copyfile(path, batch.folder / path.name)
    program = [f"{path.stem}.o" for path in sources]
    return [*compile_c(batch.folder, ["batch.c"], zig(target)), *program, *batch.objects]


@functools.cache
def _compiled(target: Target, sources: tuple[Path, ...]) -> tempfile.TemporaryDirectory[str]:
    """Objects and headers, made once per process."""
    kept = tempfile.TemporaryDirectory(prefix="perse-measuring-")
    folder = Path(kept.name)
    for path in [*sources, *PROGRAM.glob("*.h"), *RUNTIME.glob("*.h")]:
        shutil.copyfile(path, folder / path.name)
    compile_c(folder, [path.name for path in sources], zig(target))
    for path in folder.glob("*.c"):
        path.unlink()
    return kept
