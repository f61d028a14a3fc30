"""The Android example with a JDK and cmake, run by `make android`: its library built as Gradle builds it, its Java
compiled, and both at work on this machine with the bundled network and a bundled user."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perse_compile import targets
from perse_compile.artifact import open_artifact
from perse_compile.personalise.data import read_images
from perse_compile.program import InputSpec
from tests.android.sources import CPP, JAVA, declared, exported
from tests.android.stubs import app_sources, write_stubs

pytestmark = pytest.mark.skipif(os.environ.get("PERSE_ANDROID") != "1", reason="run by `make android`")
EXAMPLES = Path(__file__).parents[2] / "examples"
HOST = "arm64-linux" if platform.machine() == "aarch64" else "x86_64-linux"
DEMO = EXAMPLES.parent / "demo" / f"fashion_shufflenet-{HOST}"
PERSE = sorted((JAVA / "dev" / "perse").glob("*.java"))
HOST_PROGRAM = Path(__file__).with_name("Host.java")


def run(*command: str | Path, fails: bool = False) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    return result.stdout + result.stderr


def cmake(folder: Path, *options: str, fails: bool = False) -> str:
    return run("cmake", "-S", CPP, "-B", folder, *options, fails=fails)


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of Perse and of the program that uses it here, and JNI's headers as javac makes them."""
    folder = tmp_path_factory.mktemp("java")
    run("javac", "-Xlint:all,-try", "-Werror", "-d", folder, "-h", folder / "headers", *PERSE, HOST_PROGRAM)
    return folder


def jni_headers() -> list[str]:
    home = Path(run("java", "-XshowSettings:properties", "-version").partition("java.home = ")[2].splitlines()[0])
    return [f"{home}/include", f"{home}/include/linux"]


def test_the_app_compiles(tmp_path: Path) -> None:
    """Against Android's classes as tests/android/stubs.py has them."""
    run("javac", "-Xlint:all,-serial", "-Werror", "-d", tmp_path / "out", *write_stubs(tmp_path), *app_sources())


def test_signatures(java: Path, build_tiny, tmp_path: Path) -> None:
    """javac and perse_jni.c agree, type by type."""
    includes = [f"-I{folder}" for folder in [build_tiny(HOST).artifact.folder, *jni_headers()]]
    header = java / "headers" / "dev_perse_Perse.h"
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    run("gcc", *warnings, *includes, "-include", header, CPP / "perse_jni.c")
    assert set(re.findall(r"JNICALL (\w+)", header.read_text())) == set(declared())


def test_cross_compiled(build_tiny, tmp_path: Path) -> None:
    """By cmake with zig as the compiler; for Android itself only what an NDK's clang has compiled is taken."""
    target, artifact = targets.load("arm64-android"), build_tiny("arm64-android").artifact.folder
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang cc -target {target.zig} "$@"\n')
    compiler.chmod(0o755)
    cross = (f"-DCMAKE_C_COMPILER={compiler}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    headers = f"-DJNI_HEADERS={';'.join(jni_headers())}"
    cmake(tmp_path / "build", *cross, headers, f"-DPERSE_ARTIFACT={artifact}")
    run("cmake", "--build", tmp_path / "build")
    library = tmp_path / "build" / "libperse_jni.so"
    assert exported(library) == set(declared())
    machine = library.read_bytes()[18]
    assert machine == 183  # EM_AARCH64
    says = " ".join(cmake(tmp_path / "a", "-DANDROID=1", f"-DPERSE_ARTIFACT={artifact}", fails=True).split())
    assert "libperse.a is for aarch64-linux-musl; set ANDROID_NDK_HOME and build the artifact again" in says
    assert "no libperse.a in ''; give -DPERSE_ARTIFACT" in " ".join(cmake(tmp_path / "b", fails=True).split())


def test_at_work(java: Path, tmp_path: Path) -> None:
    """Dmitri's images through Java, JNI and the library: classified, remembered, learnt from, undone."""
    folder = tmp_path / "artifact"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("heads.pack*", "cache.bin"))
    cmake(tmp_path / "build", f"-DPERSE_ARTIFACT={folder}", f"-DJNI_HEADERS={';'.join(jni_headers())}")
    run("cmake", "--build", tmp_path / "build")
    about = open_artifact(folder).manifest
    size = about["input"]
    spec = InputSpec(size["height"], size["width"], size["channels"], tuple(size["mean"]), tuple(size["std"]))
    images = read_images(EXAMPLES / "users" / "dmitri-train.npz", spec, about["classes"])
    assert images.labels is not None
    images.pixels.tofile(tmp_path / "images.bin")
    images.labels.astype(np.int32).tofile(tmp_path / "labels.bin")
    options = ("-Xcheck:jni", "-cp", str(java), f"-Djava.library.path={tmp_path / 'build'}")
    said = run("java", *options, "Host", folder, tmp_path / "images.bin", tmp_path / "labels.bin").splitlines()
    print("\n".join(said))
    shape, before, too_few, count, stopped, threw, report, after, undone, *complaints = said
    assert shape == f"64 64 3 4 [{', '.join(about['classes'])}]"
    assert (too_few.partition(";")[0], count, stopped) == ("too few samples", "240", "true")
    assert threw.startswith("from the listener: ")
    figures = re.fullmatch(r"the new heads are better and in use: true, (\S+) (\S+) (\S+) (\S+), told true", report)
    assert figures is not None
    accuracy_before, accuracy_after, cost_before, cost_after = map(float, figures.groups())
    assert accuracy_after > accuracy_before + 0.1 and cost_after < cost_before
    old, new = figures_of(before), figures_of(after)
    assert new[0] > old[0] + 24 and new[1] < old[1] and undone == before
    assert complaints == [
        "an image of another size than the network's; see height, width and channels",
        "label out of range; labels are class numbers from 0, or -1 for unknown",
        "an image of another size than the network's; see height, width and channels",
        "no such file: /nowhere/\u00e9; is this the artifact's folder?",
        "argument out of range; see perse.h",
        "this Perse is closed",
    ]
    packs = {path.name for path in folder.iterdir()}
    assert {"heads.pack", "heads.pack.previous", "cache.bin"} <= packs


def figures_of(line: str) -> tuple[int, int]:
    """How many answers were right, and how many stages they took in all."""
    match = re.search(r"; (\d+) right, (\d+) stages$", line)
    assert match is not None
    return int(match[1]), int(match[2])
