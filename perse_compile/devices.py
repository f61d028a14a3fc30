"""Where an artifact's executable runs: this machine, or an emulator on it."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass

from perse_compile.errors import DeviceError

NAMES = ("local", "emulator")
EMULATOR_HINT = "install it with `apt-get install qemu-user-static`"


@dataclass(frozen=True)
class Device:
    """How to start an executable there."""

    name: str
    prefix: tuple[str, ...]


def runs_here(machine: str) -> bool:
    """Whether this machine's processor runs executables for `machine` (`uname -m`)."""
    return platform.system() == "Linux" and platform.machine() == machine


def emulator_path(emulator: str) -> str | None:
    return shutil.which(emulator)


def find(name: str | None, machine: str, emulator: str) -> Device:
    """The device of that name; None means the machine itself where it can. Raises DeviceError."""
    if name is None or name == "local":
        if runs_here(machine):
            return Device("local", ())
        hint = (
            "; add --device emulator to run it here"
            if emulator_path(emulator)
            else f"; for --device emulator {EMULATOR_HINT}"
        )
        raise DeviceError(f"this machine ({platform.machine()}) cannot run an artifact for {machine}{hint}")
    if name == "emulator":
        path = emulator_path(emulator)
        if path is None:
            raise DeviceError(f"{emulator} is not installed; {EMULATOR_HINT}")
        return Device("emulator", (path,))
    raise DeviceError(f"unknown device {name!r}; known: {', '.join(NAMES)}")


def any_device(machine: str, emulator: str) -> Device | None:
    """The best device at hand for verifying a build, or None."""
    if runs_here(machine):
        return Device("local", ())
    path = emulator_path(emulator)
    return Device("emulator", (path,)) if path else None
