"""What targets/probe.py's script prints on devices: their /proc/cpuinfo and sysfs, as such devices have them."""

from __future__ import annotations

from typing import NamedTuple

CPU = "/sys/devices/system/cpu"
V8_0 = "fp asimd evtstrm crc32 cpuid"
V8_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
V3 = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep pge cmov pat clflush mmx fxsr sse sse2 ht syscall nx rdtscp lm"
    " constant_tsc nopl cpuid pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand"
    " hypervisor lahf_lm abm fsgsbase bmi1 avx2 smep bmi2 erms rdseed adx smap xsaveopt arat"
)
AVX512 = " avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni"


class Arm(NamedTuple):
    """So many cores of one kind, their cache sizes (empty: sysfs does not say), and how many share each."""

    count: int
    part: int
    megahertz: int
    caches: tuple[tuple[str, int], ...] = ()
    implementer: int = 0x41


def printed(machine: str, texts: dict[str, str], board: str = "") -> str:
    """PATH:LINE, as the script prints it; a board ends without a newline of its own there."""
    lines = [f"uname:{machine}", *([f"board:{board}"] if board else [])]
    return "\n".join([*lines, *(f"{path}:{line}" for path, text in texts.items() for line in text.splitlines())]) + "\n"


def arm(kinds: list[Arm], features: str, machine: str = "aarch64", board: str = "", memory: int = 4000) -> str:
    """An ARM device, its cores in the order of `kinds`."""
    texts, blocks, number = {"/proc/meminfo": f"MemTotal: {memory * 1024} kB\nMemFree: 1000 kB"}, [], 0
    for kind in kinds:
        for i in range(kind.count):
            name = "model name\t: ARMv7 Processor rev 4 (v7l)\n" if machine == "armv7l" else ""
            blocks.append(
                f"processor\t: {number}\n{name}BogoMIPS\t: 38.40\nFeatures\t: {features}\n"
                f"CPU implementer\t: {kind.implementer:#x}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
                f"CPU part\t: {kind.part:#05x}\nCPU revision\t: 3\n"
            )
            texts[f"{CPU}/cpu{number}/cpufreq/cpuinfo_max_freq"] = str(kind.megahertz * 1000)
            for index, (size, shared) in enumerate(kind.caches):
                start = number - i % shared if shared <= kind.count else 0
                sharing = f"{start}-{start + shared - 1}" if shared > 1 else str(number)
                level, what = max(1, index), ("Data", "Instruction")[index] if index < 2 else "Unified"
                cache = {"level": str(level), "type": what, "size": size, "shared_cpu_list": sharing}
                texts |= {f"{CPU}/cpu{number}/cache/index{index}/{key}": value for key, value in cache.items()}
            number += 1
    texts["/proc/cpuinfo"] = "\n".join(blocks) + (
        "\nRevision\t: c03111\nSerial\t\t: 10000000a1b2c3d4\n" if board else ""
    )
    texts[f"{CPU}/present"] = f"0-{number - 1}"
    return printed(machine, texts, board)


def x86(features: str, threads: int = 2, smt: bool = False, caches: bool = False) -> str:
    """An x86 machine; with `smt`, processors n and n + threads / 2 are threads of one core."""
    texts, blocks = {"/proc/meminfo": "MemTotal:        8139852 kB", f"{CPU}/present": f"0-{threads - 1}"}, []
    for number in range(threads):
        blocks.append(
            f"processor\t: {number}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n"
            f"model name\t: Intel(R) Xeon(R) Processor @ 2.50GHz\ncache size\t: 36608 KB\nflags\t\t: {features}\n"
            "bogomips\t: 5000.00\npower management:\n"
        )
        half = threads // 2
        together = f"{number % half},{number % half + half}" if smt else str(number)
        texts[f"{CPU}/cpu{number}/topology/thread_siblings_list"] = together
        for index, (size, level) in enumerate((("32K", 1), ("32K", 1), ("1024K", 2), ("36608K", 3)) if caches else ()):
            sharing = f"0-{threads - 1}" if level == 3 else together
            what = ("Data", "Instruction")[index] if index < 2 else "Unified"
            cache = {"level": str(level), "type": what, "size": size, "shared_cpu_list": sharing}
            texts |= {f"{CPU}/cpu{number}/cache/index{index}/{key}": value for key, value in cache.items()}
    texts["/proc/cpuinfo"] = "\n".join(blocks)
    return printed("x86_64", texts)


PI_3 = arm([Arm(4, 0xD03, 1200)], V8_0, board="Raspberry Pi 3 Model B Rev 1.2", memory=909)  # its kernel says no caches
PI_3_32_BIT = arm(
    [Arm(4, 0xD03, 1200)],
    "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32",
    machine="armv7l",
    board="Raspberry Pi 3 Model B Rev 1.2",
)
PI_4 = arm([Arm(4, 0xD08, 1800, (("32K", 1), ("48K", 1), ("1024K", 4)))], V8_0, board="Raspberry Pi 4 Model B Rev 1.4")
PI_5 = arm(
    [Arm(4, 0xD0B, 2400, (("64K", 1), ("64K", 1), ("512K", 1), ("2048K", 4)))],
    V8_2,
    board="Raspberry Pi 5 Model B Rev 1.0",
)
RK3588 = arm(
    [
        Arm(4, 0xD05, 1800, (("32K", 1), ("32K", 1), ("128K", 1), ("3072K", 8))),
        Arm(2, 0xD0B, 2400, (("64K", 1), ("64K", 1), ("512K", 1), ("3072K", 8))),
        Arm(2, 0xD0B, 2352, (("64K", 1), ("64K", 1), ("512K", 1), ("3072K", 8))),
    ],
    V8_2,
    board="Radxa ROCK 5B",
)
# Android shows no caches and no board; this one hides the SVE of its cores.
PHONE = arm([Arm(4, 0xD46, 1785), Arm(3, 0xD47, 2496), Arm(1, 0xD48, 2995)], f"{V8_2} sha3 sha512 asimdfhm i8mm bf16")
OLDER_PHONE = arm([Arm(4, 0x805, 1785, implementer=0x51), Arm(4, 0x804, 2841, implementer=0x51)], V8_2)
SMALL_VM = x86(V3)
SERVER = x86(V3 + AVX512, threads=8, smt=True, caches=True)
