"""From what a device says of itself to a target, and to the TOML that describes it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from perse_compile.errors import TargetError
from perse_compile.targets import cores
from perse_compile.targets.probe import Cpu, Found, files, run_on, understand
from perse_compile.targets.reading import from_values
from perse_compile.targets.target import Target

V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
AARCH64 = {
    "mtriple": "aarch64-unknown-linux-gnu", "zig": "aarch64-linux-musl", "emulator": "qemu-aarch64-static",
    "vector_bytes": 16, "registers": 32,
    "vector_source": "Arm Architecture Reference Manual for A-profile (DDI 0487): V0 to V31 of 128 bits",
}  # fmt: skip
ARMV7 = {
    "mtriple": "armv7-unknown-linux-gnueabihf", "zig": "arm-linux-musleabihf", "emulator": "qemu-arm-static",
    "vector_bytes": 16, "registers": 16,
    "vector_source": "Arm Architecture Reference Manual for ARMv7-A (DDI 0406): Q0 to Q15 of 128 bits",
}  # fmt: skip
X86_64 = {"mtriple": "x86_64-unknown-linux-gnu", "zig": "x86_64-linux-musl", "emulator": "qemu-x86_64-static"}
X86_VECTORS = "Intel 64 and IA-32 Architectures Software Developer's Manual"
NOTES = {
    "l1d_kilobytes": "The device does not say what caches it has: those of docs/targets.md are assumed.",
    "fma_latency": "How fast this core multiplies is not known here: the figures of docs/targets.md are assumed.",
}


def values_of(found: Found, device: str) -> dict[str, Any]:
    """Keys and values of the TOML for a device; what it does not say is left out. Raises TargetError."""
    if found.machine == "x86_64":
        code = _x86_64(found, device)
    elif found.machine == "aarch64":
        code = _aarch64(found, device)
    elif found.machine in ("armv7l", "armv8l"):
        code = _armv7(found, device)
    else:
        raise TargetError(f"{device} is a {found.machine} machine; there are x86_64, aarch64 and armv7l targets only")
    used = used_cpus(found)
    name = used[0].core
    values = {"description": ", ".join(filter(None, (found.board, name))) or found.machine, **code}
    values |= {"machine": found.machine, "cores": len(used)}
    values |= {"core": name, "core_source": "/proc/cpuinfo of the device"} if name else {}
    values |= _caches(used)
    if name in cores.MULTIPLIES:
        *figures, source = cores.MULTIPLIES[name]
        keys = ("fma_latency", "accumulate_latency", "fmas_per_cycle")
        values |= {key: figure for key, figure in zip(keys, figures, strict=True) if figure}
        values["fma_source"] = source
    groups = _clusters(found)
    return values | ({"clusters": groups} if len(groups) > 1 else {})


def native() -> Target:
    """This machine, as the target "native". Raises TargetError."""
    where = "this machine"
    return from_values(values_of(understand(files(run_on("local"))), where), where, "native")


def used_cpus(found: Found) -> list[Cpu]:
    """All cores of one kind: the fastest kind of which there are two or more, or else the fastest."""
    kinds: dict[str, list[Cpu]] = {}
    for cpu in found.cpus:
        kinds.setdefault(cpu.core, []).append(cpu)
    several = [group for group in kinds.values() if len(group) > 1] or list(kinds.values())
    return max(several, key=lambda group: max((cpu.megahertz, _size(cpu, 2)) for cpu in group))


def _aarch64(found: Found, device: str) -> dict[str, Any]:
    if "asimd" not in found.features:
        raise TargetError(f"the processor of {device} has no NEON (asimd), which the kernels need")
    mcpu, without_sve = used_cpus(found)[0].mcpu, []
    zig_cpu = mcpu.replace("-", "_")
    if mcpu in cores.WITH_SVE:
        without_sve = ["-sve"]
        zig_cpu = zig_cpu if "sve" in found.features else "generic"
    return {**AARCH64, "mcpu": mcpu, "mattr": ["+neon", *without_sve], "zig_cpu": zig_cpu}


def _armv7(found: Found, device: str) -> dict[str, Any]:
    if not {"neon", "vfpv4"} <= found.features:
        raise TargetError(f"the processor of {device} has no NEON with VFPv4, which the kernels need")
    mcpu = used_cpus(found)[0].mcpu
    mcpu = mcpu if mcpu in cores.IN_32_BIT else "cortex-a7"
    return {**ARMV7, "mcpu": mcpu, "mattr": ["+neon", "+vfp4"], "zig_cpu": mcpu.replace("-", "_")}


def _x86_64(found: Found, device: str) -> dict[str, Any]:
    missing = [flag for flag in V3 if flag not in found.features]
    if missing:
        raise TargetError(
            f"the processor of {device} lacks {', '.join(missing)}; kernels need AVX2, FMA and the rest of x86-64-v3"
        )
    level, width, registers = (4, 64, 32) if set(V4) <= found.features else (3, 32, 16)
    return {
        **X86_64, "mcpu": f"x86-64-v{level}", "mattr": [], "zig_cpu": f"x86_64_v{level}", "vector_bytes": width,
        "registers": registers, "vector_source": f"{X86_VECTORS}: {registers} registers of {8 * width} bits",
    }  # fmt: skip


def _size(cpu: Cpu, level: int) -> int:
    return cpu.caches[level].kilobytes if level in cpu.caches else 0


def _caches(used: list[Cpu]) -> dict[str, Any]:
    """What every one of these cores has: of each level the smallest, if all say."""
    values: dict[str, Any] = {}
    for level, name in ((1, "l1d"), (2, "l2"), (3, "l3")):
        if all(level in cpu.caches for cpu in used):
            cache = min((cpu.caches[level] for cpu in used), key=lambda cache: cache.kilobytes / cache.shared_by)
            values[f"{name}_kilobytes"] = cache.kilobytes
            if level > 1 and cache.shared_by > 1:
                values[f"{name}_shared_by"] = cache.shared_by
    return values | ({"cache_source": "/sys/devices/system/cpu of the device"} if values else {})


def _clusters(found: Found) -> list[dict[str, Any]]:
    """Cores by kind and highest frequency. On x86, where each core may have its own, by kind alone."""
    groups: dict[tuple[str, int], list[Cpu]] = {}
    for cpu in found.cpus:
        groups.setdefault((cpu.core, 0 if found.machine == "x86_64" else cpu.megahertz), []).append(cpu)
    return [_cluster(core, megahertz, group) for (core, megahertz), group in groups.items()]


def _cluster(core: str, megahertz: int, group: list[Cpu]) -> dict[str, Any]:
    caches = {"l1d_kilobytes": _size(group[0], 1), "l2_kilobytes": _size(group[0], 2)}
    figures = {"megahertz": megahertz, **caches}
    return {"core": core, "cores": len(group)} | {key: figure for key, figure in figures.items() if figure}


# --- the TOML ---------------------------------------------------------------------------------------------


def toml(found: Found, device: str) -> str:
    """A commented TOML that `build --target` accepts. Raises TargetError."""
    values = values_of(found, device)
    lines = [f"# {line}" for line in _comments(found, values, device)]
    order = [field.name for field in dataclasses.fields(Target) if field.name in values and field.name != "clusters"]
    lines += [f"{key} = {json.dumps(values[key], ensure_ascii=False)}" for key in order]
    for table in values.get("clusters", []):
        lines += ["", "[[clusters]]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def file_name(found: Found) -> str:
    """A name for the device that a file can have: raspberry-pi-4-model-b-rev-1-4."""
    return re.sub(r"[^a-z0-9]+", "-", (found.board or used_cpus(found)[0].core or found.machine).lower()).strip("-")


def _comments(found: Found, values: dict[str, Any], device: str) -> Iterator[str]:
    yield f"{found.board or found.machine}, as `perse-compile targets --probe {device}` found it."
    if found.memory_megabytes:
        yield f"Memory: {found.memory_megabytes} MB."
    if found.asleep:
        yield f"{found.asleep} processors were asleep and are not counted; probe again when they are awake."
    if values["mcpu"] == cores.GENERIC.mcpu:
        yield "This core is not in the table of known cores; if LLVM knows it, set `mcpu` and `zig_cpu` to its name."
    yield from (note for key, note in NOTES.items() if key not in values)
