"""The runtime, plan.c and the kernels linked into a static executable and a library, with zig as cross compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from perse_compile.errors import BuildError
from perse_compile.targets import Target

RUNTIME = Path(__file__).parent.parent / "runtime"
OF_THE_EXECUTABLE = ("main.o", "npy.o")  # and not of the library
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
FLAGS = ["-O2", "-g0", "-fno-sanitize=undefined", "-ffunction-sections", "-fdata-sections", "-fPIC", "-pthread"]


def link(work: Path, target: Target) -> None:
    """Given plan.c and kernels.o in `work`, leave `perse` and `libperse.a` there. Raises BuildError."""
    sources = sorted(path.name for path in RUNTIME.glob("*.c"))
    for path in RUNTIME.glob("*.[ch]"):
        shutil.copyfile(path, work / path.name)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, f"-mcpu={target.zig_cpu}"]
    objects = [f"{name[:-2]}.o" for name in [*sources, "plan.c"]]
    for name, result in zip([*sources, "plan.c"], objects, strict=True):
        _run([*compiler, *WARNINGS, *FLAGS, "-c", name, "-o", result], work)
    _run([*compiler, "-O2", "-static", "-s", "-Wl,--gc-sections", *objects, "kernels.o", "-lm", "-o", "perse"], work)
    members = [name for name in objects if name not in OF_THE_EXECUTABLE]
    if ndk := _ndk_clang(target):
        for name in members:
            _run(
                [
                    ndk,
                    f"--target={target.machine}-linux-android24",
                    *WARNINGS,
                    *FLAGS,
                    "-c",
                    f"{name[:-2]}.c",
                    "-o",
                    name,
                ],
                work,
            )
    _run([sys.executable, "-m", "ziglang", "ar", "rcsD", "libperse.a", *members, "kernels.o"], work)


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
