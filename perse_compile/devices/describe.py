"""A device in words, and a name for a folder there."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from perse_compile.errors import DeviceError


@dataclass(frozen=True)
class Description:
    """What a device says of itself."""

    machine: str  # `uname -m`
    system: str  # kernel and its release
    cores: int
    memory_bytes: int
    processor: str  # its name, or its cores' part numbers where it has none


SCRIPT = r"""
echo "machine=$(uname -m)"
echo "system=$(uname -s) $(uname -r)"
echo "cores=$(grep -c '^processor' /proc/cpuinfo)"
echo "kilobytes=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
echo "name=$(sed -n 's/^\(model name\|Hardware\)[^:]*: *//p' /proc/cpuinfo | head -n 1)"
echo "parts=$(sed -n 's/^CPU part[^:]*: *//p' /proc/cpuinfo | sort | uniq -c | tr -s ' \n' ' ')"
"""


def read_description(answer: str) -> Description:
    """From what SCRIPT printed. Raises DeviceError."""
    found = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    try:
        name = found["name"] or ("cores of part " + found["parts"].strip() if found["parts"].strip() else "unknown")
        cores, kilobytes = max(int(found["cores"]), 1), int(found["kilobytes"])
        return Description(found["machine"], found["system"], cores, 1024 * kilobytes, name)
    except (KeyError, ValueError) as error:
        raise DeviceError("the device does not say what it is in /proc; is it Linux?") from error


def folder_name(path: Path) -> str:
    """A name for a file or folder of this machine that no other of this or another machine has: NAME-12345678."""
    whole = f"{platform.node()}:{path.resolve()}"
    return f"{path.resolve().name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
