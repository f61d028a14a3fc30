"""Where executables run: this machine, an emulator on it, or a device that ssh or adb reaches."""

from __future__ import annotations

from collections.abc import Callable

from perse_compile.devices.adb import AdbDevice
from perse_compile.devices.describe import Description
from perse_compile.devices.device import Device
from perse_compile.devices.local import EMULATOR_HINT, LocalDevice, emulator_path, runs_here
from perse_compile.devices.ssh import SshDevice
from perse_compile.errors import DeviceError

__all__ = [
    "EMULATOR_HINT", "NAMES", "Description", "Device", "LocalDevice", "any_device", "connect", "find", "runs_here",
]  # fmt: skip

NAMES = ("local", "emulator", "ssh://[user@]host[:port]", "adb[:serial]")
REMOTE: dict[str, Callable[[str], Device]] = {"ssh": SshDevice, "adb": AdbDevice}  # by what a name begins with
ALSO = {"armv7l": ("armv8l", "aarch64"), "aarch64": ("arm64",), "x86_64": ("amd64",)}  # machines that run it as well


def connect(name: str) -> Device:
    """The device of that name, whatever it is; not the emulator, which is none. Raises DeviceError."""
    if name == "local":
        return LocalDevice()
    kind = name.partition(":")[0]
    if kind not in REMOTE:
        raise DeviceError(f"unknown device {name!r}; known: {', '.join(NAMES)}")
    return REMOTE[kind](name)


def find(name: str | None, machine: str, emulator: str) -> Device:
    """The device of that name, which runs executables for `machine`; None means this machine. Raises DeviceError."""
    if name is None or name == "local":
        if runs_here(machine):
            return LocalDevice()
        hint = (
            "; add --device emulator to run it here"
            if emulator_path(emulator)
            else f"; for --device emulator {EMULATOR_HINT}"
        )
        raise DeviceError(f"this machine ({LocalDevice().machine}) cannot run an artifact for {machine}{hint}")
    if name == "emulator":
        path = emulator_path(emulator)
        if path is None:
            raise DeviceError(f"{emulator} is not installed; {EMULATOR_HINT}")
        return LocalDevice("emulator", (path,), machine)
    device = connect(name)
    _check_machine(device, machine)
    return device


def any_device(machine: str, emulator: str) -> Device | None:
    """The best device at hand for verifying a build, or None."""
    if runs_here(machine):
        return LocalDevice()
    path = emulator_path(emulator)
    return LocalDevice("emulator", (path,), machine) if path else None


def _check_machine(device: Device, machine: str) -> None:
    if device.machine in (machine, *ALSO.get(machine, ())):
        return
    device.close()
    raise DeviceError(
        f"{device.name} is {device.machine}, but this was built for {machine};"
        f" build with a target for {device.machine} (`perse-compile targets` lists them), or choose another device"
    )
