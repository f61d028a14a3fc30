"""Where an artifact runs: here, under an emulator, or nowhere, and then what to do."""

from __future__ import annotations

import pytest

from perse_compile import devices
from perse_compile.devices import Device
from perse_compile.errors import DeviceError
from tests import artifacts

HERE, ELSEWHERE = ("x86_64", "qemu-x86_64-static"), ("aarch64", "qemu-aarch64-static")


@pytest.fixture(autouse=True)
def a_linux_pc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(devices.platform, "system", lambda: "Linux")
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/bin/{name}")


@pytest.fixture
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)


@pytest.mark.parametrize("name", [None, "local"])
def test_here(name: str | None) -> None:
    assert devices.find(name, *HERE) == Device("local", ()) == devices.any_device(*HERE)


def test_the_emulator() -> None:
    expected = Device("emulator", ("/bin/qemu-aarch64-static",))
    assert devices.find("emulator", *ELSEWHERE) == expected == devices.any_device(*ELSEWHERE)


def test_not_here_but_under_the_emulator() -> None:
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


def test_another_system(monkeypatch: pytest.MonkeyPatch, no_emulator: None) -> None:
    monkeypatch.setattr(devices.platform, "system", lambda: "Darwin")
    assert devices.any_device(*HERE) is None


def test_unknown() -> None:
    with pytest.raises(DeviceError, match="unknown device 'phone'; known: local, emulator"):
        devices.find("phone", *HERE)


@pytest.mark.parametrize("variable", ["PERSE_REQUIRE_EMULATOR", "CI"])
def test_tests_fail_where_the_emulator_must_be(
    no_emulator: None, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("PERSE_REQUIRE_EMULATOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.skip.Exception, match="qemu-aarch64-static is missing"):
        artifacts.emulator("arm64-linux")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match="qemu-aarch64-static is missing; apt-get install"):
        artifacts.emulator("arm64-linux")
