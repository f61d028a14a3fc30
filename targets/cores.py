"""ARM cores by the numbers in /proc/cpuinfo, and what is published of how they multiply and accumulate.

Sources: LLVM llvm/lib/TargetParser/Host.cpp (getHostCPUNameForARM) for what -mcpu stands for a part,
util-linux sys-utils/lscpu-arm.c for the names of parts, and for each figure what `source` says.
"""

from __future__ import annotations

from typing import NamedTuple


class Core(NamedTuple):
    """A core's name, and the LLVM -mcpu that its code is compiled for."""

    name: str
    mcpu: str


class Multiplies(NamedTuple):
    """Vector multiply-accumulates: cycles, cycles to the next into the same register (0: as many), begun a cycle."""

    fma_latency: int
    accumulate_latency: int
    fmas_per_cycle: float
    source: str


GENERIC = Core("", "generic")
ARM = {
    0xC07: "cortex-a7", 0xC08: "cortex-a8", 0xC09: "cortex-a9", 0xC0D: "cortex-a12", 0xC0E: "cortex-a17",
    0xC0F: "cortex-a15", 0xD02: "cortex-a34", 0xD03: "cortex-a53", 0xD04: "cortex-a35", 0xD05: "cortex-a55",
    0xD06: "cortex-a65", 0xD07: "cortex-a57", 0xD08: "cortex-a72", 0xD09: "cortex-a73", 0xD0A: "cortex-a75",
    0xD0B: "cortex-a76", 0xD0C: "neoverse-n1", 0xD0D: "cortex-a77", 0xD0E: "cortex-a76ae", 0xD40: "neoverse-v1",
    0xD41: "cortex-a78", 0xD42: "cortex-a78ae", 0xD43: "cortex-a65ae", 0xD44: "cortex-x1", 0xD46: "cortex-a510",
    0xD47: "cortex-a710", 0xD48: "cortex-x2", 0xD49: "neoverse-n2", 0xD4A: "neoverse-e1", 0xD4B: "cortex-a78c",
    0xD4C: "cortex-x1c", 0xD4D: "cortex-a715", 0xD4E: "cortex-x3", 0xD4F: "neoverse-v2", 0xD80: "cortex-a520",
    0xD81: "cortex-a720", 0xD82: "cortex-x4",
}  # fmt: skip
QUALCOMM = {
    0x06F: ("krait", "krait"), 0x201: ("kryo", "kryo"), 0x205: ("kryo", "kryo"), 0x211: ("kryo", "kryo"),
    0x800: ("kryo-2xx-gold", "cortex-a73"), 0x801: ("kryo-2xx-silver", "cortex-a73"),
    0x802: ("kryo-3xx-gold", "cortex-a75"), 0x803: ("kryo-3xx-silver", "cortex-a75"),
    0x804: ("kryo-4xx-gold", "cortex-a76"), 0x805: ("kryo-4xx-silver", "cortex-a76"),
    0xC00: ("falkor", "falkor"), 0xC01: ("saphira", "saphira"),
}  # fmt: skip
APPLE = {
    0x020: ("icestorm-a14", "apple-a14"), 0x021: ("firestorm-a14", "apple-a14"),
    0x022: ("icestorm-m1", "apple-a14"), 0x023: ("firestorm-m1", "apple-a14"),
    0x024: ("icestorm-m1-pro", "apple-a14"), 0x025: ("firestorm-m1-pro", "apple-a14"),
    0x028: ("icestorm-m1-max", "apple-a14"), 0x029: ("firestorm-m1-max", "apple-a14"),
    0x030: ("blizzard-a15", "apple-a15"), 0x031: ("avalanche-a15", "apple-a15"),
    0x032: ("blizzard-m2", "apple-a15"), 0x033: ("avalanche-m2", "apple-a15"),
}  # fmt: skip
PARTS: dict[int, dict[int, Core]] = {
    0x41: {part: Core(name, name) for part, name in ARM.items()},
    0x42: {0x516: Core("thunderx2", "thunderx2t99")},
    0x43: {0x0A1: Core("thunderx-88xx", "thunderxt88"), 0x0AF: Core("thunderx2-99xx", "thunderx2t99")},
    0x46: {0x001: Core("a64fx", "a64fx")},
    0x48: {0xD01: Core("kunpeng-920", "tsv110")},
    0x4E: {0x004: Core("carmel", "carmel")},
    0x51: {part: Core(*names) for part, names in QUALCOMM.items()},
    0x61: {part: Core(*names) for part, names in APPLE.items()},
    0xC0: {0xAC3: Core("ampere-1", "ampere1"), 0xAC4: Core("ampere-1a", "ampere1a")},
}
MAKERS = {
    0x41: "Arm", 0x42: "Broadcom", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA",
    0x51: "Qualcomm", 0x53: "Samsung", 0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip

A76 = "Arm Cortex-A76 Software Optimization Guide (PJDOC-466751330-7215)"
A78 = "Arm Cortex-A78 Core Software Optimization Guide (102160)"
MULTIPLIES = {
    "cortex-a7": Multiplies(8, 4, 0, "GCC config/arm/cortex-a7.md"),
    "cortex-a53": Multiplies(
        8, 4, 1, "LLVM AArch64SchedA53.td; ncnn docs/developer-guide/arm-a53-a55-dual-issue.md: one a cycle"
    ),
    "cortex-a55": Multiplies(4, 0, 1, "LLVM AArch64SchedA55.td: two multipliers of 64 bits"),
    "cortex-a57": Multiplies(10, 4, 1, "LLVM AArch64SchedA57.td"),
    "cortex-a72": Multiplies(10, 4, 1, "LLVM AArch64SchedA57.td, its model for cortex-a72"),
    "cortex-a76": Multiplies(4, 0, 2, A76),
    "cortex-a77": Multiplies(4, 2, 2, "Arm Cortex-A77 Core Software Optimization Guide (PJDOC-466751330-11050)"),
    "cortex-a78": Multiplies(4, 2, 2, A78),
    "cortex-a78ae": Multiplies(4, 2, 2, f"{A78}, whose derivative this core is"),
    "cortex-a78c": Multiplies(4, 2, 2, f"{A78}, whose derivative this core is"),
    "cortex-a720": Multiplies(4, 2, 2, "Arm Cortex-A720 Core Software Optimization Guide (109720)"),
    "cortex-x4": Multiplies(4, 2, 4, "Arm Cortex-X4 Core Software Optimization Guide (PJDOC-1505342170-538636)"),
    "neoverse-n1": Multiplies(4, 0, 2, "LLVM AArch64SchedNeoverseN1.td"),
    "neoverse-v1": Multiplies(4, 2, 4, "Arm Neoverse V1 Software Optimization Guide (110659)"),
    "neoverse-v2": Multiplies(4, 2, 4, "Arm Neoverse V2 Core Software Optimization Guide (109898)"),
}
# Cores for which LLVM turns SVE on. Kernels are scheduled for the 128-bit registers, and some phones hide SVE.
WITH_SVE = {
    "a64fx", "cortex-a510", "cortex-a520", "cortex-a710", "cortex-a715", "cortex-a720", "cortex-x2", "cortex-x3",
    "cortex-x4", "neoverse-n2", "neoverse-v1", "neoverse-v2",
}  # fmt: skip
# Cores that LLVM compiles 32-bit code with NEON and VFPv4 for.
IN_32_BIT = {
    "cortex-a7", "cortex-a12", "cortex-a15", "cortex-a17", "cortex-a35", "cortex-a53", "cortex-a55", "cortex-a57",
    "cortex-a72", "cortex-a73", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78",
}  # fmt: skip


def find(implementer: int, part: int) -> Core:
    """The core of these numbers; for one that is not known, its maker and number, compiled as generic."""
    known = PARTS.get(implementer, {}).get(part)
    return known or Core(f"{MAKERS.get(implementer, f'maker {implementer:#x}')} part {part:#x}", GENERIC.mcpu)
