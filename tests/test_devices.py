"""Where an artifact runs: here, under an emulator, or nowhere, and then what to do."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from pathlib import Path

import pytest

from perse_compile import devices
from perse_compile.devices import Description, LocalDevice, local
from perse_compile.devices.cksum import cksum
from perse_compile.devices.describe import folder_name, read_description
from perse_compile.errors import DeviceError, DeviceTimeout
from tests import artifacts

HERE, ELSEWHERE = ("x86_64", "qemu-x86_64-static"), ("aarch64", "qemu-aarch64-static")


@pytest.fixture
def a_linux_pc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(local.platform, "system", lambda: "Linux")
    monkeypatch.setattr(local.shutil, "which", lambda name: f"/bin/{name}")


@pytest.fixture
def no_emulator(a_linux_pc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.shutil, "which", lambda name: None)


# --- which one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "local"])
def test_here(a_linux_pc: None, name: str | None) -> None:
    assert devices.find(name, *HERE) == LocalDevice("local", (), "x86_64") == devices.any_device(*HERE)
    assert devices.connect("local").kind == "local"


def test_the_emulator(a_linux_pc: None) -> None:
    expected = LocalDevice("emulator", ("/bin/qemu-aarch64-static",), "aarch64")
    assert devices.find("emulator", *ELSEWHERE) == expected == devices.any_device(*ELSEWHERE)
    assert expected.kind == "emulator" and expected.describe().machine == "aarch64"


def test_not_here_but_under_the_emulator(a_linux_pc: None) -> None:
    says = r"this machine \(x86_64\) cannot run an artifact for aarch64; add --device emulator to run it here"
    for name in (None, "local"):
        with pytest.raises(DeviceError, match=says):
            devices.find(name, *ELSEWHERE)


def test_not_here_at_all(no_emulator: None) -> None:
    with pytest.raises(DeviceError, match="for --device emulator install it with `apt-get install qemu-user-static`"):
        devices.find(None, *ELSEWHERE)
    with pytest.raises(DeviceError, match="qemu-aarch64-static is not installed; install it with `apt-get"):
        devices.find("emulator", *ELSEWHERE)
    assert devices.any_device(*ELSEWHERE) is None


def test_another_system(no_emulator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.platform, "system", lambda: "Darwin")
    assert devices.any_device(*HERE) is None


@pytest.mark.parametrize("name", ["phone", "", "sshx://a", "emulators"])
def test_unknown(name: str) -> None:
    with pytest.raises(DeviceError, match=f"unknown device {name!r}; known: local, emulator, ssh://.*, adb"):
        devices.find(name, *HERE)


@pytest.mark.parametrize("variable", ["PERSE_REQUIRE_EMULATOR", "CI"])
def test_tests_fail_where_what_they_need_must_be(
    no_emulator: None, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("PERSE_REQUIRE_EMULATOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.skip.Exception, match="qemu-aarch64-static is missing"):
        artifacts.emulator("arm64-linux")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match="qemu-aarch64-static is missing; apt-get install"):
        artifacts.emulator("arm64-linux")


# --- what this machine does -------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """An executable that says where it is, what it was given, and ends as it is told."""
    path = tmp_path / "script"
    path.write_text('#!/bin/sh\npwd\nfor a in "$@"; do echo "[$a]" >&2; done\n[ $# -lt 9 ] && eval "$1"\n')
    path.chmod(0o755)
    return path


def test_push_run_pull(script: Path, tmp_path: Path) -> None:
    with devices.connect("local") as device, (tmp_path / "out").open("w+") as output:
        device.push(script, "a/s")
        told: list[str] = []
        assert device.run(["a/s", "exit 3", "it's"], output=output, follow=told.append) == 3
        assert told == ["[exit 3]", "[it's]"] and output.seek(0) == 0 and output.read().endswith("\n")
        assert device.run([str(script), "kill -11 $$"], output=output) == -11
        assert device.home(tmp_path) == str(tmp_path) and device.work in device.shell("pwd")
        with device.lend(script) as there:
            assert there == str(script)
        device.pull("a", tmp_path / "back")
        assert (tmp_path / "back" / "s").read_text() == script.read_text()
        device.remove("a/s"), device.remove("a"), device.remove("a")
        with pytest.raises(DeviceError, match=r"cannot start .*a/s: No such file"):
            device.run(["a/s"], output=output)
        with pytest.raises(DeviceError, match=r"cannot copy .*nothing: No such file"):
            device.push(tmp_path / "nothing", "b")
        with pytest.raises(DeviceError, match=r"cannot copy .*: Is a directory"):
            device.pull("../" * 20 + str(script), tmp_path)
        with pytest.raises(DeviceError, match="out of luck"):
            device.shell("echo out of luck >&2; exit 1")
        with pytest.raises(DeviceError, match="a command failed with status 4"):
            device.shell("exit 4")
        work = Path(device.work)
    assert not work.exists()


def test_a_push_is_told_and_skipped(script: Path) -> None:
    with devices.connect("local") as device:
        told: list[tuple[int, int]] = []
        for _ in range(2):
            device.push(script.parent, "all", lambda *news: told.append(news))
        size = script.stat().st_size
        assert told == [(size, size)] and os.access(f"{device.work}/all/script", os.X_OK)


def test_too_slow(script: Path, tmp_path: Path) -> None:
    start, told = time.monotonic(), list[str]()
    with (tmp_path / "out").open("w") as output, pytest.raises(DeviceTimeout, match=r"script took longer than 0.3 s"):
        LocalDevice().run([str(script), "sleep 60 & echo $! >&2; wait"], output=output, follow=told.append, timeout=0.3)
    assert time.monotonic() - start < 10 and not alive(int(told[-1]))


def test_in_time(script: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as output:
        assert LocalDevice().run([str(script), "exit 5"], output=output, timeout=60) == 5
    assert threading.active_count() == 1


def test_ctrl_c(script: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def press(line: str) -> None:
        told.append(line)
        if line.isdecimal():
            raise KeyboardInterrupt

    with (tmp_path / "out").open("w") as output, pytest.raises(KeyboardInterrupt):
        LocalDevice().run([str(script), "sleep 60 & echo $! >&2; wait"], output=output, follow=press)
    assert not alive(int(told[-1]))


def alive(process: int) -> bool:
    """Whether it still works a moment later."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def test_no_room_for_a_work_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(DeviceError, match=r"cannot make a work folder: .*; free some space or set TMPDIR"):
        LocalDevice().push(tmp_path, "x")


def test_describe() -> None:
    found = devices.connect("local").describe()
    assert found.machine == platform.machine() and found.system.startswith("Linux ")
    assert found.cores == len(os.sched_getaffinity(0)) or found.cores > 0
    assert found.memory_bytes > 1e8 and found.processor


def test_what_a_device_says() -> None:
    text = "machine=aarch64\nsystem=Linux 6.1\ncores=4\nkilobytes=1000\nname={}\nparts={}\n"
    assert read_description(text.format("", " 4 0xd0b ")) == Description(
        "aarch64", "Linux 6.1", 4, 1024000, "cores of part 4 0xd0b"
    )
    assert read_description(text.format("A CPU", "")).processor == "A CPU"
    assert read_description(text.format("", "")).processor == "unknown"
    for wrong in ("", "machine=a\n", text.format("", "").replace("1000", "")):
        with pytest.raises(DeviceError, match="does not say what it is in /proc; is it Linux"):
            read_description(wrong)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65536, (1 << 20) + 1])
def test_the_checksum_is_that_of_every_shell(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(os.urandom(size))
    with (tmp_path / "x").open("rb") as file:
        expected = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True).stdout
    assert cksum(tmp_path / "x") == expected.strip()


def test_a_folder_there_is_of_one_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {folder_name(tmp_path / a / "net") for a in "ab"}
    monkeypatch.setattr(platform, "node", lambda: "another")
    names.add(folder_name(tmp_path / "a" / "net"))
    assert len(names) == 3 and all(name.startswith("net-") and len(name) == 12 for name in names)
