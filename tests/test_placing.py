"""An artifact at work on a device elsewhere: sent once, run there, its heads brought back, nobody's heads lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perse_compile import devices, driver, manifest
from perse_compile.artifact import open_artifact
from perse_compile.building.build import Built
from perse_compile.devices.remote import RemoteDevice
from perse_compile.devices.ssh import SshDevice
from perse_compile.errors import DeviceError, DeviceLost
from perse_compile.personalise.heads import Heads, device_wins, same_heads
from tests.artifacts import CHANGED, CLASSES, checksums, emulator, pictures, through_another_camera
from tests.stand_ins.phone import Phones
from tests.stand_ins.sshd import Sshd
from tests.test_devices_ssh import MACHINE


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    pixels, labels = pictures(120, 20)
    np.savez(tmp_path / "mine.npz", images=through_another_camera(pixels), labels=labels, class_names=list(CLASSES))
    return tmp_path / "mine.npz"


@pytest.fixture
def there(sshd: Sshd, ssh_client: None, artifact: Path) -> Path:
    """The artifact's folder on the device."""
    return sshd.work / devices.describe.folder_name(artifact)


def test_personalise_over_ssh(sshd: Sshd, there: Path, artifact: Path, mine: Path) -> None:
    files, told, heard = checksums(artifact), list[tuple[str, int, int]](), list[str]()
    more: dict[str, Any] = {"device": sshd.name, "progress": lambda *news: told.append(news), "notice": heard.append}
    before = driver.evaluate(artifact, mine, **more)
    assert {what for what, _, _ in told} >= {"pushing perse", "pushing backbone.bin", "evaluate"}
    assert sorted(path.name for path in there.iterdir()) == ["backbone.bin", "heads.pack", "heads.synced", "perse"]
    told.clear()
    result = driver.personalise(artifact, mine, **more)
    assert result["live"] and {what for what, _, _ in told} >= {"reading images", "features", "gate"}
    assert not any(what.startswith("pushing") for what, _, _ in told)
    now = checksums(artifact)
    assert {name for name in now if now[name] != files.get(name)} == CHANGED
    assert now["heads.pack.previous"] == files["heads.pack"] and now["heads.pack"] == checksums(there)["heads.pack"]
    assert driver.evaluate(artifact, mine, **more)["accuracy"] > before["accuracy"] + 0.1
    assert driver.evaluate(artifact, mine)["accuracy"] > before["accuracy"] + 0.1  # and here
    driver.restore_heads(artifact, "rollback", device=sshd.name)
    assert checksums(artifact)["heads.pack"] == files["heads.pack"] == checksums(there)["heads.pack"]
    assert list((sshd.work / "lent").iterdir()) == [] and heard == []


@pytest.mark.arm
def test_a_phone(phones: Phones, build_tiny: Callable[[str], Built], tmp_path: Path, mine: Path) -> None:
    emulator("arm64-android")
    artifact = shutil.copytree(build_tiny("arm64-android").artifact.folder, tmp_path / "phone-artifact")
    told: list[str] = []
    more: dict[str, Any] = {"device": "adb", "progress": lambda what, *_: told.append(what)}
    assert driver.personalise(artifact, mine, options={"epochs": "10"}, **more)["live"]
    assert manifest.read_pack(artifact / "heads.pack").generation == 1 and "features" in told
    Image.fromarray(through_another_camera(pictures(1, 5)[0])[0]).save(tmp_path / "a.png")
    assert driver.run(artifact, [tmp_path / "a.png"], device="adb")[0]["name"] == CLASSES[0]
    place = driver.push(artifact, "adb")
    assert place["device"] == "adb:A1" and place["folder"].startswith("/data/local/tmp/perse-compile/phone-artifact-")
    assert place["run"] == f"adb -s A1 shell {place['folder']}/perse"
    phones.pull_the_cable()
    with pytest.raises(DeviceError, match="adb sees no device"):
        driver.run(artifact, [tmp_path / "a.png"], device="adb")


def test_a_device_for_another_target(phones: Phones, sshd: Sshd, ssh_client: None, artifact: Path, mine: Path) -> None:
    with pytest.raises(DeviceError, match="adb:A1 is aarch64, but this was built for x86_64"):
        driver.evaluate(artifact, mine, device="adb")


def test_a_connection_lost_before_the_heads_are_back(
    sshd: Sshd, there: Path, artifact: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise DeviceLost("gone")

    driver.push(artifact, sshd.name)
    with monkeypatch.context() as patch:
        patch.setattr("perse_compile.personalise.session.bring_back_heads", lost)
        with pytest.raises(DeviceLost):
            driver.personalise(artifact, mine, device=sshd.name)
    learnt, factory, heard = checksums(there)["heads.pack"], checksums(artifact)["heads.pack"], list[str]()
    assert learnt != factory
    driver.push(artifact, sshd.name, notice=heard.append)
    assert checksums(artifact)["heads.pack"] == learnt == checksums(there)["heads.pack"]
    assert len(heard) == 1 and "changed there; those of the device are in use, and now in the folder too" in heard[0]
    assert checksums(artifact)["heads.pack.previous"] == factory


# --- whose heads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "synced", "device"),
    [
        (0, None, None, False),  # first time
        (None, 0, "t", True),  # none here
        (1, 0, "t", False),  # changed here
        (0, 1, "m", True),  # changed there
        (1, 0, "m", True),  # rolled back there
        (2, 1, "x", False), (1, 2, "x", True), (1, 1, "x", True), (1, 1, None, True),  # on both sides
        (0, -1, "m", False), (-1, 3, "m", True), (-1, -1, "x", False),  # damaged
    ],
)  # fmt: skip
def test_who_wins(mine: int | None, theirs: int | None, synced: str | None, device: bool) -> None:
    sides = [
        Heads(Path(), None if generation is None else name, -1 if generation is None else generation, True)
        for generation, name in ((mine, "m"), (theirs, "t"))
    ]
    assert device_wins(sides[0], sides[1], synced) is device


@pytest.fixture
def device(sshd: Sshd, there: Path, artifact: Path) -> RemoteDevice:
    driver.push(artifact, sshd.name)
    found = devices.find(sshd.name, MACHINE, "none")
    assert isinstance(found, SshDevice)
    return found


def make(folder: Path, generation: int, mark: float, **other: int) -> bytes:
    """Heads of that generation, unlike any others."""
    pack = manifest.read_pack(folder / "heads.pack")
    pack.exits[0].bias[0] = mark
    made = manifest.Pack(pack.exits, other.get("heads_id", pack.heads_id), generation, pack.levels)
    return manifest.encode_pack(made)


@pytest.mark.parametrize(("here", "on_device"), [(3, 2), (2, 3), (2, 2)])
def test_both_changed(device: RemoteDevice, there: Path, artifact: Path, here: int, on_device: int) -> None:
    ours, theirs = make(artifact, here, 1.0), make(artifact, on_device, 2.0)
    (artifact / "heads.pack").write_bytes(ours), (there / "heads.pack").write_bytes(theirs)
    (there / "heads.pack.previous").write_bytes(make(artifact, 1, 3.0))
    heard: list[str] = []
    same_heads(open_artifact(artifact), device, heard.append)
    winner, loser = (ours, theirs) if here > on_device else (theirs, ours)
    assert (artifact / "heads.pack").read_bytes() == (there / "heads.pack").read_bytes() == winner
    [kept] = artifact.glob("heads.pack.saved-*")
    assert kept.read_bytes() == loser and "changed on both sides" in heard[0] and str(kept) in heard[1]
    before = checksums(artifact)
    same_heads(open_artifact(artifact), device, pytest.fail)
    assert checksums(artifact) == before


def test_changed_here(device: RemoteDevice, there: Path, artifact: Path) -> None:
    old = (artifact / "heads.pack").read_bytes()
    (artifact / "heads.pack").write_bytes(new := make(artifact, 1, 1.0))
    (artifact / "heads.pack.previous").write_bytes(old)
    same_heads(open_artifact(artifact), device, pytest.fail)
    assert (there / "heads.pack").read_bytes() == new and (there / "heads.pack.previous").read_bytes() == old
    assert list(artifact.glob("heads.pack.saved-*")) == []


def test_a_rebuilt_artifact_does_not_cost_the_heads_on_the_device(
    device: RemoteDevice, there: Path, artifact: Path
) -> None:
    factory = (artifact / "heads.pack").read_bytes()
    (artifact / "heads.pack").write_bytes(learnt := make(artifact, 3, 1.0))
    same_heads(open_artifact(artifact), device)
    (artifact / "heads.pack").write_bytes(factory)  # as `build --force` leaves it
    same_heads(open_artifact(artifact), device)
    [kept] = artifact.glob("heads.pack.saved-*")
    assert kept.read_bytes() == learnt and (there / "heads.pack").read_bytes() == factory


@pytest.mark.parametrize(("kind", "says", "kept"), [("damaged", "were damaged", 0), ("other", "another network", 1)])
def test_heads_on_the_device_that_cannot_be_used(
    device: RemoteDevice, there: Path, artifact: Path, kind: str, says: str, kept: int
) -> None:
    (there / "heads.pack").write_bytes(b"PERSEPAK" if kind == "damaged" else make(artifact, 4, 1.0, heads_id=77))
    heard: list[str] = []
    same_heads(open_artifact(artifact), device, heard.append)
    assert says in heard[0] and (there / "heads.pack").read_bytes() == (artifact / "heads.pack").read_bytes()
    assert len(list(artifact.glob("heads.pack.saved-*"))) == kept


def test_missing_and_damaged_here(sshd: Sshd, device: RemoteDevice, there: Path, artifact: Path) -> None:
    factory = (artifact / "heads.pack").read_bytes()
    (artifact / "heads.pack").unlink()
    same_heads(open_artifact(artifact), device)
    assert (artifact / "heads.pack").read_bytes() == factory
    (artifact / "heads.pack").write_bytes(b"broken")
    driver.restore_heads(artifact, "reset", device=sshd.name)
    assert (artifact / "heads.pack").read_bytes() == factory
    (there / "heads.pack").write_bytes(b"broken"), (artifact / "heads.pack").unlink()
    same_heads(open_artifact(artifact), device)
    assert (there / "heads.pack").read_bytes() == b"broken"


def test_the_heads_before_go_there_too(device: RemoteDevice, there: Path, artifact: Path) -> None:
    (artifact / "heads.pack.previous").write_bytes(previous := make(artifact, 1, 5.0))
    same_heads(open_artifact(artifact), device, pytest.fail)
    assert (there / "heads.pack.previous").read_bytes() == previous


# --- commands ---------------------------------------------------------------------------------------------


def test_push_command(sshd: Sshd, there: Path, artifact: Path, call: Any) -> None:
    out, _ = call("push", artifact, "--device", sshd.name)
    assert str(there) in out and f"ssh -p {sshd.port} " in out and f"{there}/perse info" in out
    assert json.loads(call("push", artifact, "--device", sshd.name, "--json")[0])["folder"] == str(there)
    _, err = call("push", artifact, "--device", "local", code=1)
    assert err.startswith("error: an artifact runs on local from where it is; push it to ssh://... or adb")


def test_bench_command(sshd: Sshd, there: Path, artifact: Path, call: Any) -> None:
    out, err = call("bench", artifact, "--threads", "2")
    assert "medians of 30 runs on local, 2 threads" in out and "half of the runs" in out and "emulator" not in err
    found = json.loads(call("bench", artifact, "--device", sshd.name, "--json")[0])
    assert found["device"] == sshd.name and [exit["name"] for exit in found["exits"]] == ["exit0", "exit1", "final"]
    assert all(0 < exit["low"] <= exit["ms"] <= exit["high"] for exit in found["exits"])


@pytest.mark.arm
def test_bench_under_the_emulator(build_tiny: Callable[[str], Built], call: Any) -> None:
    emulator("arm64-android")
    folder = build_tiny("arm64-android").artifact.folder
    _, err = call("bench", folder, "--device", "emulator", "--json")
    assert "times under the emulator say nothing of any device's speed" in " ".join(err.replace("│", "").split())
