"""What the compiler knows of a device."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind, on a device that has several kinds. 0: not known."""

    core: str
    cores: int
    megahertz: int = 0  # at most
    l1d_kilobytes: int = 0
    l2_kilobytes: int = 0


@dataclass(frozen=True)
class Target:
    """Every field is a key of the TOML, and every key is a field; a key with a default may be left out.

    Where a device has clusters of several kinds, the figures are those of the cores that the runtime uses.
    Each `..._source` says where the figures of its group are from; without it they are assumed.
    """

    name: str
    description: str
    mtriple: str  # LLVM's triple for the kernels
    mcpu: str
    mattr: tuple[str, ...]
    zig: str  # zig's triple for the runtime and the link
    zig_cpu: str
    emulator: str  # user-mode emulator that runs its executables on another machine
    machine: str  # `uname -m` there
    vector_bytes: int
    registers: int  # vector registers
    cores: int  # that the runtime uses: of one kind
    core: str = ""  # its name; "": any that runs the code
    l1d_kilobytes: int = 32
    l2_kilobytes: int = 512
    l2_shared_by: int = 1  # cores
    l3_kilobytes: int = 0  # the last cache before memory; 0: none, or not known
    l3_shared_by: int = 1
    fma_latency: int = 4  # cycles from a vector multiply-accumulate's operands to its result
    accumulate_latency: int = 0  # cycles from one to the next into the same register; 0: fma_latency
    fmas_per_cycle: float = 2.0  # vector multiply-accumulates that one core can begin a cycle
    clusters: tuple[Cluster, ...] = ()  # all of them; (): `cores` of `core`
    core_source: str = ""
    vector_source: str = ""
    cache_source: str = ""
    fma_source: str = ""

    @property
    def lanes(self) -> int:
        """Float32 lanes of one vector register."""
        return self.vector_bytes // 4

    @property
    def chains(self) -> int:
        """Independent accumulators that keep the multipliers busy."""
        return max(1, math.ceil((self.accumulate_latency or self.fma_latency) * self.fmas_per_cycle))
