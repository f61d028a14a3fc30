"""An artifact on a device that is not this machine: what an executable there needs goes over once."""

from __future__ import annotations

from collections.abc import Callable

from perse_compile.artifact import Artifact, Progress
from perse_compile.devices import Device
from perse_compile.devices.remote import RemoteDevice
from perse_compile.manifest import BACKBONE
from perse_compile.personalise.heads import Notice, same_heads

NEEDED = ("perse", BACKBONE)


def place(
    artifact: Artifact, device: Device, progress: Progress = lambda *_: None, notice: Notice = lambda _: None
) -> None:
    """Make the artifact ready to run there, with the same heads on both sides. Raises DeviceError."""
    if not isinstance(device, RemoteDevice):
        return
    for name in NEEDED:
        device.push(artifact.folder / name, f"{device.home(artifact.folder)}/{name}", _about(name, progress))
    same_heads(artifact, device, notice)


def bring_back_heads(artifact: Artifact, device: Device) -> None:
    """After a command there that may have changed them. Raises DeviceError."""
    if isinstance(device, RemoteDevice):
        same_heads(artifact, device)


def _about(name: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(f"pushing {name}", done, total)
