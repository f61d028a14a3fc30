"""What the doctor finds, and what it says to do about it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError

import pytest

from perse_compile import doctor
from perse_compile.doctor import Finding


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(doctor, "version", lambda name: "0.1.14.post2")


def found(what: str) -> Finding:
    [finding] = [finding for finding in doctor.examine() if finding.what == what]
    return finding


def test_all_is_well(healthy: None) -> None:
    findings = doctor.examine()
    assert all(finding.fine and not finding.advice for finding in findings)
    assert [f.what for f in findings[1:-1]] == [
        *doctor.PACKAGES,
        "aarch64 executables",
        "armv7l executables",
        "x86_64 executables",
        "devices by ssh",
        "devices by adb",
    ]
    assert found("x86_64 executables").found == "run on this machine"
    assert found("armv7l executables").found == "run under /bin/qemu-arm-static"


def test_this_very_environment_is_fit_for_work() -> None:
    assert all(finding.fine for finding in [doctor._python(), *doctor._packages()])


def test_an_old_python(healthy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 1))
    assert not found("Python").fine and found("Python").advice == "install Python 3.10 or later"


def test_a_missing_package(healthy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "pillow":
            raise PackageNotFoundError(name)
        return "0.1.14"

    monkeypatch.setattr(doctor, "version", version)
    assert found("pillow") == Finding("pillow", "missing", False, "pip install pillow")
    assert found("torch").fine


def test_the_version_that_crashes(healthy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.1.15")
    finding = found("apache-tvm-ffi")
    assert not finding.fine and "pip install 'apache-tvm-ffi==0.1.14.*'" in finding.advice


def test_no_emulator(healthy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = found("aarch64 executables")
    assert not finding.fine and finding.found == "cannot run here"
    assert "apt-get install qemu-user-static" in finding.advice
    assert found("x86_64 executables").fine


def test_no_clients_is_nothing_wrong(healthy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("devices by ssh").found == "/bin/ssh" and found("devices by adb").found == "/bin/adb"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert found("devices by ssh").fine and "apt-get install openssh-client" in found("devices by ssh").found
    assert found("devices by adb").fine and "apt-get install adb" in found("devices by adb").found


@pytest.mark.parametrize("there", [True, False])
def test_gpu_is_no_must(healthy: None, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a big one")
    assert doctor._gpu().fine and doctor._gpu().found == ("a big one" if there else "none; the processor is used")
