"""From a program to an artifact that works: on every target, byte for byte the same, and never half-written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perse_compile import devices, driver, manifest, targets, trace
from perse_compile.artifact import open_artifact
from perse_compile.building import build as building
from perse_compile.building.build import Built, build
from perse_compile.building.link import WARNINGS
from perse_compile.errors import BuildError, LoweringError, ProgramError, TargetError
from perse_compile.program import InputSpec, Program
from tests.artifacts import EVERYWHERE, NATIVE, Tiny, checksums, device_for, elf, emulator
from tests.helpers import flip

APP = Path(__file__).parent / "c" / "app.c"
MACHINES = {"x86_64": (64, 62), "aarch64": (64, 183), "armv7l": (32, 40)}  # bits, e_machine
FILES = ["backbone.bin", "heads.pack", "layers.json", "libperse.a", "manifest.json", "perse", "perse.h", "plan.c"]
BuildTiny = Callable[[str], Built]


@pytest.fixture(autouse=True)
def no_ndk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)


# --- every target -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", EVERYWHERE)
def test_the_self_test_passes(build_tiny: BuildTiny, target: str) -> None:
    device = device_for(target)
    built = build_tiny(target)
    assert built.device == device.name and built.selftest is not None and built.selftest["ok"]
    result = built.artifact.call(device, ["selftest", "--threads", "2"])
    assert result["exit_status"] == 0 and result["ok"] and result["probes"] == building.PROBES
    assert [exit["stages"] for exit in result["exits"]] == [1, 2, 3] and result["confident_exit_stages"] == 1
    assert all(exit["max_rel_diff"] <= 1e-4 for exit in result["exits"])


@pytest.mark.parametrize("target", EVERYWHERE)
def test_what_is_in_the_folder(build_tiny: BuildTiny, target: str) -> None:
    emulator(target) if target != NATIVE else None
    artifact = build_tiny(target).artifact
    assert sorted(path.name for path in artifact.folder.iterdir()) == FILES
    bits, machine = MACHINES[artifact.machine]
    assert elf(artifact.folder / "perse") == {"bits": bits, "machine": machine, "interpreter": False, "dynamic": False}
    assert os.access(artifact.folder / "perse", os.X_OK)
    assert artifact.manifest["target"]["name"] == target and artifact.manifest["library_for"].endswith(("musl", "hf"))
    for path in artifact.folder.iterdir():
        assert str(Path.home()).encode() + b"/" not in path.read_bytes() or path.suffix == ".a", path.name
        assert str(artifact.folder.parent).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize("target", [NATIVE, pytest.param("arm64-linux", marks=pytest.mark.arm)])
def test_building_again_gives_the_same_bytes(build_tiny: BuildTiny, tiny: Program, tmp_path: Path, target: str) -> None:
    if target != NATIVE:
        emulator(target)
    tiny.save(tmp_path / "again.perse")
    (tmp_path / "deeper").mkdir()
    again = build(Program.load(tmp_path / "again.perse"), targets.load(target), tmp_path / "deeper" / "other")
    assert checksums(again.artifact.folder) == checksums(build_tiny(target).artifact.folder)


def test_targets_share_their_heads(build_tiny: BuildTiny) -> None:
    """A person's heads can move from one device to another."""
    assert build_tiny(NATIVE).artifact.manifest["heads_id"] == build_tiny("arm64-linux").artifact.manifest["heads_id"]


# --- the library in an app --------------------------------------------------------------------------------


def run_app(folder: Path, target: str, threads: int, work: Path) -> list[list[str]]:
    spec, device = targets.load(target), device_for(target)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", spec.zig, f"-mcpu={spec.zig_cpu}", "-static", "-O2"]
    app = work / f"app-{target}"
    if not app.exists():
        command = [
            *compiler,
            *WARNINGS,
            "-fno-sanitize=undefined",
            f"-I{folder}",
            str(APP),
            str(folder / "libperse.a"),
            "-lm",
            "-o",
            str(app),
        ]
        subprocess.run(command, check=True)
    command = [*device.prefix, str(app), str(folder), str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split() for line in output.splitlines()]


@pytest.mark.parametrize(
    "target", [NATIVE, *(p for p in EVERYWHERE[1:] if p.values[0] in ("arm64-linux", "armv7-linux"))]
)
def test_an_app_gets_the_same_bits_with_any_number_of_threads(
    build_tiny: BuildTiny, tiny: Program, tmp_path: Path, target: str
) -> None:
    device_for(target)
    folder = build_tiny(target).artifact.folder
    one = run_app(folder, target, 1, tmp_path)
    assert one == run_app(folder, target, 2, tmp_path) == run_app(folder, target, 3, tmp_path)
    expected = building._probes(tiny).logits
    rows = iter(one)
    for probe in range(building.PROBES):
        next(rows)  # the cascade's answer
        for exit in range(3):
            row = next(rows)
            logits = np.array([int(word, 16) for word in row[4:]], np.uint32).view(np.float32)
            wanted = expected[probe, exit]
            assert row[:3] == [str(wanted.argmax()), str(exit), str(exit + 1)]
            np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_confident_exit_ends_it(artifact: Path, tmp_path: Path) -> None:
    pack = manifest.read_pack(artifact / "heads.pack")

    def cascade(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
        exits = [replace(pack.exits[0], **first), replace(pack.exits[1], **second), pack.exits[2]]
        (artifact / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, exits=exits)))
        return run_app(artifact, NATIVE, 2, tmp_path)[0][1:3]

    sure, off = {"enabled": True, "threshold": 0.0}, {"enabled": False}
    assert cascade(sure, sure) == ["0", "1"]
    assert cascade(off, sure) == ["1", "2"]
    assert cascade(off, off) == ["2", "3"]


# --- Android's own compiler -------------------------------------------------------------------------------


def test_an_ndk_that_is_not_there(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    with pytest.raises(
        BuildError, match=r"ANDROID_NDK_HOME is .*/ndk, but no clang lies under .*; correct or unset it"
    ):
        build(tiny, targets.load("arm64-android"), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.arm
def test_the_ndk_compiles_the_library(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator("arm64-android")
    clang = tmp_path / "ndk" / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin" / "clang"
    clang.parent.mkdir(parents=True)
    clang.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n[ "$1" = --target=aarch64-linux-android24 ] || exit 1\nshift\n'
        f'exec {sys.executable} -m ziglang cc -target aarch64-linux-musl "$@"\n'
    )
    clang.chmod(0o755)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    artifact = build(tiny, targets.load("arm64-android"), tmp_path / "a").artifact
    assert artifact.manifest["library_for"] == "Android NDK"
    compiled = {Path(word).name for word in (tmp_path / "log").read_text().split() if word.endswith(".c")}
    assert {"plan.c", "threads.c"} <= compiled and "main.c" not in compiled
    assert len(run_app(artifact.folder, "arm64-android", 2, tmp_path)) == building.PROBES * 4
    clang.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    with pytest.raises(BuildError, match=r"cannot compile the runtime:\n  no such luck"):
        build(tiny, targets.load("arm64-android"), tmp_path / "a")
    open_artifact(artifact.folder)


# --- what must not happen ---------------------------------------------------------------------------------


@pytest.fixture
def quick(build_tiny: BuildTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building copies a finished artifact instead of compiling; all around it is real."""
    ready = build_tiny(NATIVE).artifact.folder

    def copy(network: Any, probes: Any, work: Path, fresh: Path, say: Any) -> None:
        shutil.copytree(ready, fresh, dirs_exist_ok=True)

    monkeypatch.setattr(building, "_write_files", copy)


def personalised(folder: Path) -> None:
    pack = manifest.read_pack(folder / "heads.pack")
    (folder / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, generation=2)))


def test_personalised_heads_are_not_discarded(tiny: Program, artifact: Path, quick: None) -> None:
    personalised(artifact)
    before, target = checksums(artifact), targets.load(NATIVE)
    with pytest.raises(
        BuildError, match="holds heads personalised 2 times, which building would discard; use -o, or --force"
    ):
        build(tiny, target, artifact)
    assert checksums(artifact) == before
    assert build(tiny, target, artifact, force=True).artifact.folder == artifact
    assert manifest.read_pack(artifact / "heads.pack").generation == 0
    build(tiny, target, artifact)  # factory heads are no loss


def test_a_damaged_artifact_is_replaced(tiny: Program, artifact: Path, quick: None) -> None:
    flip(artifact / "heads.pack", 70)
    build(tiny, targets.load(NATIVE), artifact)
    open_artifact(artifact)


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_artifact_stays(tiny: Program, tmp_path: Path, quick: None, force: bool) -> None:
    target, photos = targets.load(NATIVE), tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("meow")
    for folder in (photos, photos / "cat.jpg"):
        with pytest.raises(BuildError, match=r"is there and is not an artifact; choose another place with -o"):
            build(tiny, target, folder, force=force)
    assert (photos / "cat.jpg").read_text() == "meow"
    (tmp_path / "empty").mkdir()
    build(tiny, target, tmp_path / "empty", force=force)
    with pytest.raises(BuildError, match=r"no folder .*/nowhere to write a to"):
        build(tiny, target, tmp_path / "nowhere" / "a", force=force)


def test_wrong_answers_are_no_artifact(tiny: Program, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, right = checksums(artifact), building._probes(tiny)
    wrong = manifest.Probes(right.images, right.logits + 0.05 * np.abs(right.logits).max())
    monkeypatch.setattr(building, "_probes", lambda program: wrong)
    says = r"the compiled network differs from PyTorch \(greatest relative difference [\d.]+\); nothing was written"
    for folder in (artifact, artifact.parent / "new"):
        with pytest.raises(BuildError, match=says):
            build(tiny, targets.load(NATIVE), folder)
    assert checksums(artifact) == before and [p.name for p in artifact.parent.iterdir()] == [artifact.name]


def fails(code: int) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return function


@pytest.mark.parametrize("where", ["_write_files", "_swap", "_verify", "tempfile.TemporaryDirectory"])
def test_a_full_disk(tiny: Program, artifact: Path, quick: None, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    before = checksums(artifact)
    monkeypatch.setattr(f"perse_compile.building.build.{where}", fails(errno.ENOSPC))
    with pytest.raises(
        BuildError, match=r"cannot write the artifact .*: No space left on device; the old one, if any, is"
    ):
        build(tiny, targets.load(NATIVE), artifact)
    assert checksums(artifact) == before and [p.name for p in artifact.parent.iterdir()] == [artifact.name]


def test_the_last_rename_fails(tiny: Program, artifact: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = checksums(artifact), Path.rename

    def refuse(self: Path, to: Path) -> Path:
        return fails(errno.EACCES)() if self.name == "artifact" else rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BuildError, match="Permission denied"):
        build(tiny, targets.load(NATIVE), artifact)
    assert checksums(artifact) == before


def test_nothing_here_runs_it(tiny: Program, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "any_device", lambda machine, emulator: None)
    built = build(tiny, targets.load(NATIVE), tmp_path / "a")
    assert built.device is None and built.selftest is None


# --- the driver -------------------------------------------------------------------------------------------


def test_the_only_program_of_the_folder(
    tiny: Program, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ProgramError, match=r"no .perse program in this folder; make one with `perse-compile insert-exits"
    ):
        driver.build(None, NATIVE)
    tiny.save(Path("a.perse"))
    assert driver.build(None, NATIVE).artifact.folder == Path("tiny-x86_64-linux")
    tiny.save(Path("b.perse"))
    with pytest.raises(ProgramError, match=r"several programs in this folder: a.perse, b.perse; say which to build"):
        driver.build(None, NATIVE)
    with pytest.raises(TargetError, match="unknown target 'toaster'"):
        driver.build(Path("a.perse"), "toaster")
    with pytest.raises(ProgramError, match=r"cannot read c.perse: No such file"):
        driver.build(Path("c.perse"), NATIVE)


def test_a_program_without_exits(tmp_path: Path) -> None:
    spec = InputSpec(64, 64, 3, (0, 0, 0), (1, 1, 1))
    program = Program("plain", trace.trace(Tiny().eval(), "plain", spec), spec, ["a", "b"])
    with pytest.raises(LoweringError, match=r"plain has not been through propagate-shapes, .*insert-exits` does all"):
        build(program, targets.load(NATIVE), tmp_path / "plain")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.999])
def test_a_damaged_program(tiny: Program, tmp_path: Path, part: float) -> None:
    path = tmp_path / "a.perse"
    tiny.save(path)
    flip(path, int(part * path.stat().st_size))
    with pytest.raises(ProgramError, match=r"a.perse is (damaged|not a .perse program)"):
        driver.build(path, NATIVE, output=tmp_path / "a")
    tiny.save(path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ProgramError, match=r"a.perse is (damaged|not a .perse program)"):
        driver.build(path, NATIVE, output=tmp_path / "a")
    assert not (tmp_path / "a").exists()
