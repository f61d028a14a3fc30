"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from perse_compile import devices, targets
from perse_compile.devices import adb, ssh

PACKAGES = ("torch", "torchvision", "apache-tvm", "apache-tvm-ffi", "ziglang", "numpy", "safetensors", "pillow")
GOOD_FFI = "0.1.14"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    found: str
    fine: bool
    advice: str = ""


def examine() -> list[Finding]:
    """Everything that compiling and personalising needs."""
    return [_python(), *_packages(), *_emulators(), *_clients(), _gpu()]


def _python() -> Finding:
    fine = sys.version_info >= (3, 10)
    return Finding("Python", platform.python_version(), fine, "" if fine else "install Python 3.10 or later")


def _packages() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        try:
            found = version(name)
        except PackageNotFoundError:
            findings.append(Finding(name, "missing", False, f"pip install {name}"))
            continue
        if name == "apache-tvm-ffi" and not found.startswith(GOOD_FFI):
            findings.append(
                Finding(name, found, False, f"TVM 0.27 crashes with it; pip install 'apache-tvm-ffi=={GOOD_FFI}.*'")
            )
        else:
            findings.append(Finding(name, found, True))
    return findings


def _emulators() -> list[Finding]:
    """One row per emulator that some target needs and this processor is not."""
    findings, seen = [], set()
    for name in targets.names():
        target = targets.load(name)
        if target.emulator in seen:
            continue
        seen.add(target.emulator)
        if devices.runs_here(target.machine):
            findings.append(Finding(f"{target.machine} executables", "run on this machine", True))
        elif path := shutil.which(target.emulator):
            findings.append(Finding(f"{target.machine} executables", f"run under {path}", True))
        else:
            advice = f"builds will not be verified; {devices.EMULATOR_HINT}"
            findings.append(Finding(f"{target.machine} executables", "cannot run here", False, advice))
    return findings


def _clients() -> list[Finding]:
    """What --device ssh://... and adb need; nothing is wrong for those who want neither."""
    found = []
    for name, hint in (("ssh", ssh.CLIENT_HINT), ("adb", adb.CLIENT_HINT)):
        path = shutil.which(name)
        found.append(Finding(f"devices by {name}", path or f"no {name} client; for such devices, {hint}", True))
    return found


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU for train-exits", torch.cuda.get_device_name(0), True)
    return Finding("GPU for train-exits", "none; the processor is used", True)
