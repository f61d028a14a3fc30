"""The Android example without Android or a JDK: its C against its Java, its C compiled, names that belong together.

`make android` does what needs a JDK and cmake: tests/android/test_app.py."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perse_compile import targets
from tests.android.sources import CPP, EXAMPLE, JAVA, MAIN, declared, defined, exported

if TYPE_CHECKING:
    from perse_compile.building.build import Built

JNI = Path(__file__).parent / "android" / "jni"
ANDROID = "{http://schemas.android.com/apk/res/android}"
SOURCES = "\n".join(path.read_text() for path in sorted(JAVA.rglob("*.java")))


def test_every_native_method_has_its_function() -> None:
    assert declared() == defined() and len(declared()) > 8


@pytest.mark.parametrize("target", ["x86_64-linux", "arm64-android"])
def test_the_library_links_and_shows_these_functions_alone(
    build_tiny: Callable[[str], Built], tmp_path: Path, target: str
) -> None:
    """With the options of CMakeLists.txt."""
    built = build_tiny(target).artifact
    cmake = (CPP / "CMakeLists.txt").read_text().replace("${CMAKE_CURRENT_SOURCE_DIR}", str(CPP))
    options = re.findall(r"LINKER:([^ \n)]+)", cmake)
    assert len(options) == 4
    flags = ["-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", f"-I{built.folder}"]
    command = [sys.executable, "-m", "ziglang", "cc", "-target", targets.load(target).zig, *flags, f"-I{JNI}"]
    inputs = [CPP / "perse_jni.c", built.folder / "libperse.a", "-lm", *(f"-Wl,{option}" for option in options)]
    subprocess.run([*command, "-shared", *inputs, "-o", tmp_path / "libperse_jni.so"], check=True)
    assert exported(tmp_path / "libperse_jni.so") == set(declared())


def test_resources_that_are_used_are_there() -> None:
    strings = {each.get("name") for each in xml.parse(MAIN / "res" / "values" / "strings.xml").getroot()}
    layout, manifest = (MAIN / "res" / "layout" / "main.xml"), (MAIN / "AndroidManifest.xml")
    ids = set(re.findall(r"@\+id/(\w+)", layout.read_text()))
    used = {kind: set(re.findall(rf"(?<!android\.)R\.{kind}\.(\w+)", SOURCES)) for kind in ("string", "id", "layout")}
    in_xml = set(re.findall(r"@string/(\w+)", layout.read_text() + manifest.read_text()))
    assert used["string"] | in_xml == strings and used["id"] == ids and used["layout"] == {"main"}
    parts = [part for part in xml.parse(manifest).getroot().iter() if part.tag in ("activity", "service")]
    names = [str(part.get(f"{ANDROID}name")).removeprefix(".") for part in parts]
    assert [name for name in names if not (JAVA / "dev" / "perse" / "demo" / f"{name}.java").exists()] == []
    assert len(names) == 2


def test_the_build_files_name_what_is_there() -> None:
    gradle = (EXAMPLE / "app" / "build.gradle.kts").read_text()
    cmake = (CPP / "CMakeLists.txt").read_text()
    [path], [library] = re.findall(r'file\("(\S+)"\)', gradle), re.findall(r"add_library.(\w+) SHARED", cmake)
    assert (EXAMPLE / "app" / path).exists() and f'loadLibrary("{library}")' in SOURCES
    assert "-DPERSE_ARTIFACT=" in gradle and "set(PERSE_ARTIFACT" in cmake
    assert 'include("backbone.bin")' in gradle and 'BACKBONE = "backbone.bin"' in SOURCES
    [key] = re.findall(r'property\("(\S+)"\)', gradle)
    assert f"\n{key}=" in (EXAMPLE / "gradle.properties").read_text()
