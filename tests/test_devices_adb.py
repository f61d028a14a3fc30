"""adb: the commands of the real client, and everything that can be wrong with a phone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perse_compile import devices
from perse_compile.devices import Device, process
from perse_compile.devices.remote import RemoteDevice
from perse_compile.errors import DeviceError, DeviceLost, DeviceTimeout
from tests.stand_ins.phone import Phones
from tests.test_devices import alive

FOR_PHONES = ("aarch64", "none")


@pytest.fixture(params=[False, True], ids=["android", "android before 7"])
def device(phones: Phones, request: pytest.FixtureRequest) -> Iterator[RemoteDevice]:
    phones.connect("A1", old=request.param)
    with devices.find("adb", *FOR_PHONES) as found:
        assert isinstance(found, RemoteDevice)
        yield found


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text('#!/bin/sh\npwd\nfor a in "$@"; do echo "[$a]" >&2; done\neval "$1"\n')
    path.chmod(0o755)
    return path


def run(device: Device, *words: str, **more: object) -> tuple[int, str, list[str]]:
    """Status, stdout, lines of stderr."""
    told: list[str] = []
    with Path("output").open("w+") as output:
        status = device.run(["script", *words], output=output, follow=told.append, **more)  # type: ignore[arg-type]
        output.seek(0)
        return status, output.read(), told


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_push_run_pull(device: RemoteDevice, phones: Phones, script: Path, tmp_path: Path) -> None:
    assert (device.name, device.kind, device.machine) == ("adb:A1", "adb", "aarch64")
    assert device.work == "/data/local/tmp/perse-compile"
    assert device.command_line("a/perse") == "adb -s A1 shell /data/local/tmp/perse-compile/a/perse"
    told: list[tuple[int, int]] = []
    for _ in range(2):
        device.push(script, "script", lambda *news: told.append(news))
    assert told == [(script.stat().st_size,) * 2] and (phones.work("A1") / "script").read_text() == script.read_text()
    status, out, lines = run(device, "exit 3", "it's")
    assert (status, lines) == (3, ["[exit 3]", "[it's]"]) and out.endswith("perse-compile\n")
    assert run(device, "kill -11 $$")[0] == -signal.SIGSEGV
    device.pull("script", tmp_path / "back")
    assert (tmp_path / "back").read_text() == script.read_text()
    assert sorted(path.name for path in phones.work("A1").iterdir()) == ["script"]
    with device.lend(script) as there:
        assert there.startswith("/data/local/tmp/perse-compile/lent/script-")
    with pytest.raises(DeviceError, match="out of luck"):
        device.shell("echo out of luck >&2; exit 1")
    with (
        pytest.raises(DeviceError, match=r"cannot start \./none on adb:A1: .*not found"),
        Path("o").open("w") as output,
    ):
        device.run(["none"], output=output)
    assert device.describe().machine == "aarch64" and device.describe().system == "Linux 5.10-android"


def test_timeout_and_ctrl_c_kill_what_runs_there(
    device: RemoteDevice, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.5)  # an old phone does not hear of the end of stdin
    told: list[str] = []

    def press(line: str) -> None:
        told.append(line)
        if line.isdecimal():
            raise KeyboardInterrupt

    device.push(script, "script")
    forever = "sleep 60 & echo $! >&2; wait"
    with pytest.raises(KeyboardInterrupt), Path("output").open("w") as output:
        device.run(["script", forever], output=output, follow=press)
    with pytest.raises(DeviceTimeout, match=r"script on adb:A1 took longer than 0.5 s"), Path("o").open("w") as output:
        device.run(["script", forever], output=output, follow=told.append, timeout=0.5)
    assert [alive(int(line)) for line in told if line.isdecimal()] == [False, False]


# --- which phone ------------------------------------------------------------------------------------------


def test_the_one_that_is_asked_for(phones: Phones) -> None:
    phones.connect("A1", "192.168.1.5:5555")
    with devices.connect("adb:192.168.1.5:5555") as device:
        assert device.name == "adb:192.168.1.5:5555"
    with pytest.raises(DeviceError, match=r"several devices: A1, 192.168.1.5:5555; say which, like --device adb:A1"):
        devices.connect("adb")
    with pytest.raises(DeviceError, match=r"adb sees no device B2; it sees A1, 192.168.1.5:5555"):
        devices.connect("adb:B2")


def test_no_phone(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    phones.connect()
    for name in ("adb", "adb:A1"):
        with pytest.raises(DeviceError, match="adb sees no device; connect one, with USB debugging on"):
            devices.connect(name)
    phones.connect(broken=True)
    with pytest.raises(DeviceError, match="adb does not work: error: cannot connect to daemon"):
        devices.connect("adb")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="adb is not installed; install Android's platform tools, or `apt-get"):
        devices.connect("adb")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("unauthorized", "does not trust this computer; unlock it and allow USB debugging"),
        ("authorizing", "is being asked for permission; unlock it"),
        ("offline", "is offline; plug it in again, or `adb kill-server`"),
        ("no permissions (user in plugdev group; are your udev rules wrong?)", "may not be opened by this user"),
        ("recovery", "is in recovery mode"),
        ("sideload", "is in sideload mode"),
        ("bootloader", "is in its bootloader"),
    ],
)
def test_a_phone_that_is_not_ready(phones: Phones, state: str, says: str) -> None:
    phones.connect("A1", state=state)
    with pytest.raises(DeviceError, match=f"^adb:A1 {says}"):
        devices.connect("adb")


def test_another_architecture(phones: Phones) -> None:
    phones.install("armv7l")
    with pytest.raises(DeviceError, match="adb:A1 is armv7l, but this was built for aarch64; build with a target for"):
        devices.find("adb", *FOR_PHONES)
    phones.install("aarch64")
    devices.find("adb", "armv7l", "none").close()  # runs 32-bit executables too


# --- while at work ----------------------------------------------------------------------------------------


def test_the_cable_is_pulled(phones: Phones, device: RemoteDevice, script: Path, tmp_path: Path) -> None:
    told: list[str] = []
    says = "lost the connection to adb:A1.*; nothing there or here is half-written: reconnect and repeat"

    def pull(line: str) -> None:
        told.append(line)
        if line.isdecimal():
            phones.pull_the_cable()

    device.push(script, "script")
    with pytest.raises(DeviceLost, match=says), Path("output").open("w") as output:
        device.run(["script", "sleep 60 & echo $! >&2; wait"], output=output, follow=pull)
    assert not alive(int(told[-1]))
    for use in (
        lambda: device.shell("true"),
        lambda: device.push(script, "new"),
        lambda: device.pull("script", tmp_path / "x"),
        lambda: device._fetch("script", tmp_path / "x"),
    ):
        with pytest.raises(DeviceLost, match=says):
            use()
    assert not (tmp_path / "x").exists()


def test_the_cable_is_pulled_while_files_travel(phones: Phones, device: RemoteDevice, tmp_path: Path) -> None:
    phones.connect("A1", slow=0.02)
    (tmp_path / "big").write_bytes(os.urandom(4_000_000))
    threading.Timer(0.8, phones.pull_the_cable).start()
    with pytest.raises(DeviceLost, match="lost the connection to adb:A1"):
        device.push(tmp_path / "big", "big")
    time.sleep(0.3)
    assert not (phones.work("A1") / "big").exists()
    phones.connect("A1", slow=0.04)
    told: list[tuple[int, int]] = []
    device.push(tmp_path / "big", "big", lambda *news: told.append(news))
    assert told[-1] == (4_000_000, 4_000_000) and any(0 < done < 4_000_000 for done, _ in told)
    assert sorted(path.name for path in phones.work("A1").iterdir()) == ["big"]


def test_a_full_phone(phones: Phones, device: RemoteDevice, script: Path) -> None:
    part = phones.work("A1") / ".script.part"
    part.symlink_to("/dev/full")
    says = "adb:A1 is full; free some space there, in /data/local/tmp/perse-compile for instance"
    with pytest.raises(DeviceError, match=says):
        device.push(script, "script")
    assert list(phones.work("A1").iterdir()) == []


def test_a_phone_that_does_not_answer(device: RemoteDevice, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceTimeout, match=r"no answer from adb:A1 in 0.5 s"):
        device.shell("sleep 5", timeout=0.5)
