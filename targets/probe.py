"""What a device says of itself: one script reads its files there, and what it prints is understood here."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from perse_compile.errors import TargetError
from perse_compile.targets import cores

CPU = "/sys/devices/system/cpu"
# Prints PATH:LINE. Only sh, uname, tr and grep, as toybox and busybox have them; what cannot be read is left out.
SCRIPT = rf"""
echo "uname:$(uname -m)"
[ -r /proc/device-tree/model ] && echo "board:$(tr -d '\000' < /proc/device-tree/model)"
grep -s -H '' /proc/cpuinfo /proc/meminfo {CPU}/present \
    {CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq {CPU}/cpu[0-9]*/topology/thread_siblings_list \
    {CPU}/cpu[0-9]*/cache/index*/level {CPU}/cpu[0-9]*/cache/index*/type \
    {CPU}/cpu[0-9]*/cache/index*/size {CPU}/cpu[0-9]*/cache/index*/shared_cpu_list
exit 0
"""
UNITS = {"": 1 / 1024, "K": 1, "M": 1024, "G": 1024 * 1024}


@dataclass(frozen=True)
class Cache:
    """One data or unified cache, and how many of the device's cores share it."""

    kilobytes: int
    shared_by: int


@dataclass(frozen=True)
class Cpu:
    """One processor that is awake. 0: not known."""

    core: str
    mcpu: str
    megahertz: int
    caches: dict[int, Cache]  # by level


@dataclass(frozen=True)
class Found:
    """A device. `cpus`: those awake, one thread of each core; `asleep`: how many could not be looked at."""

    machine: str
    board: str
    memory_megabytes: int
    features: frozenset[str]
    cpus: tuple[Cpu, ...]
    asleep: int


def run_on(device: str) -> str:
    """What SCRIPT prints on a device. Raises TargetError, DeviceError."""
    from perse_compile import devices

    if device == "emulator":
        raise TargetError("the emulator has no processor of its own to describe; probe the device itself")
    with devices.connect(device) as there:
        return there.shell(SCRIPT)


def files(printed: str) -> dict[str, str]:
    """What SCRIPT printed, as the text of every file that it could read."""
    texts: dict[str, list[str]] = defaultdict(list)
    for line in printed.splitlines():
        path, colon, text = line.partition(":")
        if colon and (path.startswith("/") or path in ("uname", "board")):
            texts[path].append(text)
    return {path: "\n".join(lines) for path, lines in texts.items()}


def understand(texts: dict[str, str]) -> Found:
    """The device whose files these are. Raises TargetError where they do not even name its processors."""
    if not texts.get("uname"):
        raise TargetError("the device did not say what machine it is; does `uname -m` work there?")
    common, processors = _cpuinfo(texts.get("/proc/cpuinfo", ""))
    if not processors:
        raise TargetError("the device's /proc/cpuinfo names no processors")
    siblings = {n: _list(texts.get(f"{CPU}/cpu{n}/topology/thread_siblings_list", "")) or {n} for n in processors}
    first = [number for number in processors if min(siblings[number] & processors.keys(), default=number) == number]
    present = _list(texts.get(f"{CPU}/present", "")) or set(processors)
    return Found(
        machine=texts["uname"],
        board=texts.get("board", "").strip(),
        memory_megabytes=_memory(texts.get("/proc/meminfo", "")),
        features=frozenset((common.get("Features") or common.get("flags") or "").split()),
        cpus=tuple(_cpu(number, processors[number], texts, set(first)) for number in first),
        asleep=len(present - processors.keys()),
    )


def _cpuinfo(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Fields that hold for all processors, and each one's. Old kernels give the former once, for all of them."""
    common: dict[str, str] = {}
    processors: dict[int, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            current = None if not line.strip() else current
        elif key == "processor" and value.isdecimal():
            current = processors.setdefault(int(value), {})
        else:
            common.setdefault(key, value)
            if current is not None:
                current[key] = value
    return common, {number: {**common, **fields} for number, fields in processors.items()}


def _cpu(number: int, fields: dict[str, str], texts: dict[str, str], first: set[int]) -> Cpu:
    implementer, part = (_number(fields.get(key, "")) for key in ("CPU implementer", "CPU part"))
    known = implementer is not None and part is not None
    core = cores.find(implementer or 0, part or 0) if known else cores.Core(fields.get("model name", ""), "generic")
    kilohertz = texts.get(f"{CPU}/cpu{number}/cpufreq/cpuinfo_max_freq", "")
    megahertz = int(kilohertz) // 1000 if kilohertz.isdecimal() else 0
    return Cpu(core.name, core.mcpu, megahertz, _caches(number, texts, first))


def _caches(number: int, texts: dict[str, str], first: set[int]) -> dict[int, Cache]:
    """`first`: one processor of each core; threads of one core do not share a cache with one another."""
    found = {}
    for index in range(8):
        folder = f"{CPU}/cpu{number}/cache/index{index}"
        level, size = texts.get(f"{folder}/level", ""), _kilobytes(texts.get(f"{folder}/size", ""))
        if level.isdecimal() and size and texts.get(f"{folder}/type") in ("Data", "Unified"):
            sharing = _list(texts.get(f"{folder}/shared_cpu_list", "")) & first
            found[int(level)] = Cache(size, max(1, len(sharing)))
    return found


def _list(text: str) -> set[int]:
    """The kernel's "0-3,8" as numbers."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _number(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", text) else None


def _kilobytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    return int(int(match[1]) * UNITS[match[2]]) if match else 0


def _memory(text: str) -> int:
    match = re.search(r"MemTotal:\s*(\d+) kB", text)
    return int(match[1]) // 1024 if match else 0
