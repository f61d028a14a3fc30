"""An artifact becomes its owner's: better heads go live, worse ones do not, and nothing is ever half-done."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perse_compile import driver, manifest
from perse_compile.artifact import Artifact, open_artifact
from perse_compile.building.build import Built
from perse_compile.devices import Device, LocalDevice
from perse_compile.errors import ArtifactError, DataError, DeviceError
from perse_compile.personalise.data import Images
from perse_compile.personalise.session import Session
from tests.artifacts import CHANGED, CLASSES, checksums, device_for, pictures, through_another_camera
from tests.helpers import flip

HERE = LocalDevice()


def images(count: int, seed: int, *, labelled: bool = True) -> Images:
    """What a person with another camera has."""
    pixels, labels = pictures(count, seed)
    return Images("mine", through_another_camera(pixels), labels if labelled else None, list(CLASSES), [])


def session(folder: Path, device: Device = HERE) -> Session:
    return Session(open_artifact(folder), device)


def as_folder(mine: Images, folder: Path) -> Path:
    """As PNG files, one sub-folder per class or, without labels, flat."""
    for index, pixels in enumerate(mine.pixels):
        within = folder if mine.labels is None else folder / CLASSES[mine.labels[index]]
        within.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(within / f"{index}.png")
    return folder


# --- it learns --------------------------------------------------------------------------------------------


def test_a_labelled_person(artifact: Path, tmp_path: Path) -> None:
    before, files = session(artifact).evaluate(images(200, 21)), checksums(artifact)
    told: list[tuple[str, int, int]] = []
    result = driver.personalise(
        artifact, as_folder(images(150, 20), tmp_path / "mine"), progress=lambda *news: told.append(news)
    )
    after, now = session(artifact).evaluate(images(200, 21)), checksums(artifact)
    assert result["live"] and result["labelled"] and result["generation"] == 1
    assert result["after"]["accuracy"] > result["before"]["accuracy"] + 0.2
    assert after["accuracy"] > before["accuracy"] + 0.2 and after["accuracy"] > 0.8
    assert result["samples"] == {"train": 150, "judged": 150, "left_out": 0}
    assert {name for name in now if now[name] != files.get(name)} == CHANGED
    assert now["heads.pack.previous"] == files["heads.pack"] and set(now) == {*files, *CHANGED}
    assert {what for what, _, _ in told} >= {"reading images", "features"}


def test_back_and_forth(artifact: Path) -> None:
    factory = (artifact / "heads.pack").read_bytes()
    for count in (120, 150):
        before = (artifact / "heads.pack").read_bytes()
        assert session(artifact).personalise(images(count, count), {"seed": str(count)})["live"]
        learnt = (artifact / "heads.pack").read_bytes()
        assert (
            driver.restore_heads(artifact, "rollback")["generation"]
            == manifest.read_pack(artifact / "heads.pack").generation
        )
        assert (artifact / "heads.pack").read_bytes() == before
        driver.restore_heads(artifact, "rollback")
        assert (artifact / "heads.pack").read_bytes() == learnt
        driver.restore_heads(artifact, "reset")
        assert (artifact / "heads.pack").read_bytes() == factory


def test_no_previous_heads(artifact: Path) -> None:
    with pytest.raises(DeviceError, match="no previous heads to roll back to"):
        driver.restore_heads(artifact, "rollback")


def test_damaged_heads_can_be_replaced(artifact: Path) -> None:
    factory = (artifact / "heads.pack").read_bytes()
    flip(artifact / "heads.pack", 100)
    with pytest.raises(ArtifactError, match=r"heads.pack is damaged .*--rollback"):
        driver.evaluate(artifact, artifact)
    driver.restore_heads(artifact, "reset")
    assert (artifact / "heads.pack").read_bytes() == factory


def test_random_labels_keep_the_old_heads(artifact: Path) -> None:
    files, mine = checksums(artifact), images(200, 30)
    assert mine.labels is not None
    mixed = np.random.default_rng(0).permutation(mine.labels)
    result = session(artifact).personalise(Images("mine", pictures(200, 31)[0], mixed, list(CLASSES), []), {})
    assert not result["live"] and result["verdict"].startswith("kept the old heads")
    assert checksums(artifact) == files


def test_without_labels(artifact: Path, tmp_path: Path) -> None:
    result = driver.personalise(artifact, as_folder(images(120, 40, labelled=False), tmp_path / "mine"))
    assert not result["labelled"] and "final exit" in result["teacher"]
    assert 0 <= result["before"]["accuracy"] <= result["after"]["accuracy"] <= 1 or not result["live"]


def test_the_same_again_gives_the_same_heads(artifact: Path) -> None:
    found = []
    for threads in (1, 3):
        driver.restore_heads(artifact, "reset")
        Session(open_artifact(artifact), HERE, threads).personalise(images(100, 50), {"epochs": "5"})
        found.append((artifact / "heads.pack").read_bytes())
    assert found[0] == found[1] and manifest.read_pack(artifact / "heads.pack").generation == 1


@pytest.mark.arm
@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux"])
def test_a_phone_learns_the_same(
    build_tiny: Callable[[str], Built], artifact: Path, tmp_path: Path, target: str
) -> None:
    device, phone = device_for(target), tmp_path / "phone"
    shutil.copytree(build_tiny(target).artifact.folder, phone)
    assert (phone / "heads.pack").read_bytes() == (artifact / "heads.pack").read_bytes()
    mine = images(120, 60)
    results = [session(*where).personalise(mine, {"epochs": "20"}) for where in ((artifact, HERE), (phone, device))]
    assert results[0]["live"] and results[1]["live"], results
    packs = [manifest.read_pack(folder / "heads.pack") for folder in (artifact, phone)]
    for left, right in zip(packs[0].exits, packs[1].exits, strict=True):
        assert left.enabled == right.enabled
        for leaf in ("shift", "scale", "weight", "bias"):
            a, b = getattr(left, leaf), getattr(right, leaf)
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-3 * np.abs(a).max() + 1e-6, err_msg=leaf)
    (artifact / "heads.pack").write_bytes((phone / "heads.pack").read_bytes())  # heads move between devices
    assert session(artifact).evaluate(images(100, 61))["accuracy"] > 0.8


@pytest.mark.arm
@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux"])
@pytest.mark.parametrize("labelled", [True, False])
def test_the_loss_falls_alike_on_a_phone(
    build_tiny: Callable[[str], Built], artifact: Path, tmp_path: Path, target: str, labelled: bool
) -> None:
    """At the beginning, on the way and at the end of the same training."""
    device, phone = device_for(target), tmp_path / "phone"
    shutil.copytree(build_tiny(target).artifact.folder, phone)
    mine, curve = images(120, 62, labelled=labelled), []
    for epochs in (1, 5, 20):
        losses = []
        for where, folder in ((HERE, artifact), (device, phone)):
            report = session(folder, where).personalise(mine, {"epochs": str(epochs), "no-levels": ""})
            losses.append(np.array([(x["first_loss"], x["last_loss"]) for x in report["exits"]]))
            session(folder, where).simple("reset")
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-6)
        curve.append(losses[0][:, 1])
    assert (curve[-1][:-1] < curve[0][:-1]).all()  # the final head learns from labels only


# --- what cannot be learnt from ---------------------------------------------------------------------------


def refused(artifact: Path, data: Path, error: type[Exception], says: str) -> None:
    files = checksums(artifact)
    with pytest.raises(error, match=says):
        driver.personalise(artifact, data)
    assert checksums(artifact) == files


def test_one_class_only(artifact: Path, tmp_path: Path) -> None:
    mine = images(40, 70)
    only = Images("mine", mine.pixels, np.full(40, 2), list(CLASSES), [])
    refused(artifact, as_folder(only, tmp_path / "mine"), (DataError, DeviceError), "of one class")  # type: ignore[arg-type]


def test_zero_images(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "green").mkdir(parents=True)
    refused(
        artifact, tmp_path / "mine", DataError, r"mine has no images; put them there, or in one sub-folder per class"
    )
    refused(artifact, tmp_path / "none", DataError, r"none does not exist; give a folder of images")


def test_too_few_images(artifact: Path, tmp_path: Path) -> None:
    refused(artifact, as_folder(images(10, 71), tmp_path / "mine"), DeviceError, "too few samples")


def test_an_unknown_class(artifact: Path, tmp_path: Path) -> None:
    (as_folder(images(10, 71), tmp_path / "mine") / "green").rename(tmp_path / "mine" / "grass")
    refused(artifact, tmp_path / "mine", DataError, "no class is named 'grass'; known: red dots, green")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_images_that_are_not_images(artifact: Path, tmp_path: Path, data: bytes) -> None:
    as_folder(images(30, 72), tmp_path / "mine")
    (tmp_path / "mine" / "green" / "zzz.png").write_bytes(data)
    refused(artifact, tmp_path / "mine", DataError, r"green/zzz.png is (not an image|damaged)")


def test_evaluating_needs_labels(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mine has images without labels; evaluating needs one sub-folder per class"):
        driver.evaluate(artifact, as_folder(images(5, 73, labelled=False), tmp_path / "mine"))


def test_pictures_of_any_kind(artifact: Path, tmp_path: Path) -> None:
    pixels, labels = pictures(4, 80, noise=10)
    for kind in ("png", "jpg", "bmp"):
        Image.fromarray(pixels[0]).save(tmp_path / f"a.{kind}", quality=95)
    Image.fromarray(pixels[0]).resize((300, 200)).save(tmp_path / "large.jpg")
    paths = [tmp_path / name for name in ("a.png", "a.jpg", "a.bmp", "large.jpg")]
    results = driver.run(artifact, paths)
    assert [r["image"] for r in results] == [str(path) for path in paths]
    assert [r["label"] for r in results[:3]] == [labels[0]] * 3 and results[0]["name"] == CLASSES[labels[0]]
    assert all(0 < r["confidence"] <= 1 and r["ms"] > 0 and r["stages"] == r["exit"] + 1 for r in results)
    with pytest.raises(DataError, match=r"none.png does not exist"):
        driver.run(artifact, [tmp_path / "none.png"])


# --- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["heads.pack", "backbone.bin", "manifest.json", "perse"])
def test_damage_is_found_before_use(artifact: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, whole = as_folder(images(30, 90), tmp_path / "mine"), (artifact / name).read_bytes()
    picture = next((mine / "green").iterdir())
    monkeypatch.setattr(Artifact, "call", lambda *_: pytest.fail("used"))
    for damaged in (whole[:200] + bytes([whole[200] ^ 2]) + whole[201:], whole[: len(whole) // 2], b""):
        (artifact / name).write_bytes(damaged)
        for use in (
            lambda: driver.personalise(artifact, mine),
            lambda: driver.evaluate(artifact, mine),
            lambda: driver.run(artifact, [picture]),
        ):
            with pytest.raises(ArtifactError, match=re.escape(str(artifact / name))):
                use()


def test_an_executable_that_fails(artifact: Path, tmp_path: Path) -> None:
    opened = open_artifact(artifact)
    for script, says in (
        ("kill -9 $$", r"was stopped by signal 9; its heads are as they were"),
        ("exit 3", "perse failed with status 3"),
        ("echo perse: a: b: c >&2; exit 1", "perse: a: b: c"),
        ("echo hello", "did not print JSON; build the artifact again"),
    ):
        (artifact / "perse").write_text(f"#!/bin/sh\n{script}\n")
        with pytest.raises(DeviceError, match=says):
            opened.call(HERE, ["info"])
    (artifact / "perse").chmod(0o644)
    with pytest.raises(DeviceError, match=r"cannot start .*perse: Permission denied; is the artifact complete"):
        opened.call(HERE, ["info"])


def test_no_room_for_temporary_files(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")

    opened, mine, says = session(artifact), images(30, 91), r"No space left on device.*; free some space or set TMPDIR"
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(DeviceError, match=says):
        opened.simple("info")
    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    with pytest.raises(DataError, match=says):
        opened.evaluate(mine)


# --- kill -9 and full disks ---------------------------------------------------------------------------------


@pytest.fixture
def command(artifact: Path, tmp_path: Path) -> list[str]:
    """The trainer at work on a few seconds' worth of images."""
    mine = images(1000, 95)
    assert mine.labels is not None
    np.save(tmp_path / "x.npy", mine.pixels)
    np.save(tmp_path / "y.npy", mine.labels)
    words = [artifact / "perse", "personalise", tmp_path / "x.npy", "--labels", tmp_path / "y.npy"]
    return [*map(str, words), "--json", "--progress"]


def killed_at(command: list[str], line: int) -> bool:
    """Whether it was still at work when it had printed so many lines."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for _ in range(line):
            process.stderr.readline()
        process.kill()
    return process.returncode == -signal.SIGKILL


def test_kill_during_training(artifact: Path, command: list[str]) -> None:
    files, features = checksums(artifact), 1001  # lines of progress
    for line in (1, 500, features + 2, features + 10):
        assert killed_at([*command, "--epochs", "100000"], line)
        assert checksums(artifact) == files
    assert session(artifact).evaluate(images(20, 96))["samples"] == 20


def test_kill_at_any_moment(artifact: Path, command: list[str]) -> None:
    """Also while the heads are being saved: there is always a whole pack, the old one or the new."""
    start = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    whole = time.monotonic() - start
    for attempt in range(12):
        generation = manifest.read_pack(artifact / "heads.pack").generation
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (0.9 + attempt / 60))
        process.kill()
        process.wait()
        open_artifact(artifact)
        assert manifest.read_pack(artifact / "heads.pack").generation in (generation, generation + 1)
        info = subprocess.run([artifact / "perse", "info", "--json"], capture_output=True, text=True, check=True)
        assert json.loads(info.stdout)["classes"] == len(CLASSES)
    assert session(artifact).personalise(images(100, 97), {})["samples"]["train"] > 0


@pytest.fixture
def small_disk(artifact: Path, tmp_path: Path) -> Iterator[tuple[Path, Device]]:
    """The artifact where its heads cannot be saved: on a full file system or, without root, under a limit."""
    mount = tmp_path / "disk"
    mount.mkdir()
    size = sum(path.stat().st_size + 8192 for path in artifact.iterdir())
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], capture_output=True, check=False
    )
    if made.returncode != 0:
        limit = 'trap "" XFSZ; ulimit -f 1; exec "$@"'
        yield artifact, LocalDevice("local", ("bash", "-c", limit, "bash"))
        return
    try:
        shutil.copytree(artifact, mount / "artifact")
        with (mount / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass
        yield mount / "artifact", HERE
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_full_disk_keeps_the_old_heads(small_disk: tuple[Path, Device]) -> None:
    folder, device = small_disk
    files = checksums(folder)
    with pytest.raises(DeviceError, match="disk full"):
        session(folder, device).personalise(images(100, 98), {})
    assert checksums(folder) == files
    assert session(folder).evaluate(images(20, 96))["samples"] == 20
