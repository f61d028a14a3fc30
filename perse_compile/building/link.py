"""The runtime, plan.c and the kernels linked into a static executable and a library, with zig as cross compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from perse_compile.errors import BuildError
from perse_compile.targets import Target

RUNTIME = Path(__file__).parent.parent / "runtime"
PROGRAM = RUNTIME / "program"  # what the executable has more than the library
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
FLAGS = ["-g0", "-fno-sanitize=undefined", "-ffunction-sections", "-fdata-sections", "-fPIC", "-pthread",
         "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]  # fmt: skip
# sources with loops over pixels, features, or bytes
BUSY = {"answer", "base", "half", "levels", "likeness", "perse", "threads"}


def link(work: Path, target: Target) -> None:
    """Given plan.c and kernels.o in `work`, leave `perse` and `libperse.a` there. Raises BuildError."""
    library, program = (sorted(map(str, folder.glob("*.c"))) for folder in (RUNTIME, PROGRAM))
    compiler = [*zig(target), f"-I{RUNTIME}"]
    members = compile_c(work, [*library, "plan.c"], compiler)
    objects = compile_c(work, program, compiler)
    link_executable(work, [*objects, *members, "kernels.o"], "perse", target)
    if ndk := _ndk_clang(target):
        compile_c(work, [*library, "plan.c"], [ndk, f"--target={target.machine}-linux-android24", f"-I{RUNTIME}"])
    _run([sys.executable, "-m", "ziglang", "ar", "rcsD", "libperse.a", *members, "kernels.o"], work)


def zig(target: Target) -> list[str]:
    """The C compiler for a target."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, f"-mcpu={target.zig_cpu}"]


def compile_c(work: Path, sources: list[str], compiler: list[str]) -> list[str]:
    """The object files of C sources, by name in `work`. Raises BuildError.

    zig remembers what it compiled from where: sources are best read where they are always.
    """
    objects = [f"{Path(name).stem}.o" for name in sources]

    def make(name: str, result: str) -> None:
        speed_or_size = "-O2" if Path(name).stem in BUSY else "-Os"
        _run([*compiler, *WARNINGS, *FLAGS, speed_or_size, "-c", name, "-o", result], work)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, sources, objects))
    return objects


def join_objects(objects: list[Path], output: Path) -> None:
    """Object files to one, which takes their place. Raises BuildError."""
    if len(objects) == 1:
        objects[0].replace(output)
        return
    names = [each.name for each in objects]
    _run([sys.executable, "-m", "ziglang", "ld.lld", "-r", *names, "-o", output.name], output.parent)
    for each in objects:
        each.unlink()


def link_executable(work: Path, objects: list[str], output: str, target: Target) -> None:
    """Object files in `work` to a static executable. Raises BuildError."""
    _run([*zig(target), "-O2", "-static", "-s", "-Wl,--gc-sections", *objects, "-lm", "-o", output], work)


def link_library(work: Path, objects: list[str], output: str, exported: list[str], target: Target) -> None:
    """Object files in `work` to a shared library that shows only the names in `exported`. Raises BuildError."""
    (work / "exported").write_text(f"{{ global: {'; '.join(exported)}; local: *; }};\n")
    script = "-Wl,--version-script=exported"
    _run([*zig(target), "-O2", "-shared", "-s", script, *objects, "-lm", "-o", output], work)


def library_is_for(target: Target) -> str:
    """Which C library libperse.a is compiled for."""
    return "Android NDK" if _ndk_clang(target) else target.zig


def _ndk_clang(target: Target) -> str | None:
    """The NDK's own clang, for the library an Android app links; None without ANDROID_NDK_HOME."""
    home = os.environ.get("ANDROID_NDK_HOME")
    if "android" not in target.name or not home:
        return None
    found = sorted(Path(home).glob("toolchains/llvm/prebuilt/*/bin/clang"))
    if not found:
        raise BuildError(
            f"ANDROID_NDK_HOME is {home}, but no clang lies under toolchains/llvm/prebuilt there; correct or unset it"
        )
    return str(found[0])


def _run(command: list[str], work: Path) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "ZERO_AR_DATE": "1"}
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip().splitlines()[-12:]
        if "No space left" in result.stderr:
            raise BuildError(f"disk full while compiling in {work}; free some space and build again")
        raise BuildError("cannot compile the runtime:\n  " + "\n  ".join(last))
