"""What is made of what devices say of themselves: targets and TOML files, also where they say little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perse_compile import devices, targets
from perse_compile.devices import LocalDevice
from perse_compile.errors import DeviceError, TargetError
from perse_compile.targets import Target, cores, probe
from perse_compile.targets.describe import file_name, toml
from perse_compile.targets.probe import files, understand
from tests import probes
from tests.compiled import compile_convolution
from tests.probes import CPU

Described = Callable[[str], Target]
CACHES = ("l1d_kilobytes", "l2_kilobytes", "l2_shared_by", "l3_kilobytes", "l3_shared_by")


@pytest.fixture
def described(tmp_path: Path) -> Described:
    """described(printed): the target that the TOML written for it gives."""

    def read(printed: str) -> Target:
        path = tmp_path / "board.toml"
        path.write_text(toml(understand(files(printed)), "ssh://pi@board"))
        return targets.load(str(path))

    return read


def same_figures(found: Target, name: str) -> None:
    """All figures of the built-in target but the words, and what only its file can know."""
    known = targets.load(name)
    for key in ("mtriple", "mcpu", "mattr", "zig", "zig_cpu", "emulator", "machine", "vector_bytes", "registers",
                "core", "cores", "chains", "fma_latency", "fmas_per_cycle", *CACHES):  # fmt: skip
        assert getattr(found, key) == getattr(known, key), key


@pytest.mark.parametrize(
    ("printed", "name"),
    [(probes.PI_4, "raspberry-pi-4"), (probes.PI_5, "raspberry-pi-5"), (probes.RK3588, "rk3588")],
)
def test_boards_that_say_all_are_found_as_published(described: Described, printed: str, name: str) -> None:
    same_figures(described(printed), name)


def test_a_kernel_that_tells_no_caches(described: Described) -> None:
    found = described(probes.PI_3)
    assert (found.core, found.cores, found.mcpu) == ("cortex-a53", 4, "cortex-a53")
    assert (found.l1d_kilobytes, found.l2_kilobytes, found.cache_source) == (32, 512, "")
    assert "# The device does not say what caches it has" in toml(understand(files(probes.PI_3)), "local")


def test_a_32_bit_system(described: Described) -> None:
    found = described(probes.PI_3_32_BIT)
    assert (found.mtriple, found.mcpu, found.registers) == ("armv7-unknown-linux-gnueabihf", "cortex-a53", 16)
    assert (found.machine, found.zig_cpu, found.core) == ("armv7l", "cortex_a53", "cortex-a53")


def test_clusters_of_one_kind_are_used_together(described: Described) -> None:
    kinds = [(c.core, c.cores, c.megahertz, c.l2_kilobytes) for c in described(probes.RK3588).clusters]
    assert kinds == [("cortex-a55", 4, 1800, 128), ("cortex-a76", 2, 2400, 512), ("cortex-a76", 2, 2352, 512)]


def test_a_phone_uses_its_fastest_cores_of_which_there_are_several(described: Described) -> None:
    found = described(probes.PHONE)
    assert (found.core, found.cores, found.description) == ("cortex-a710", 3, "cortex-a710")
    assert [(c.core, c.cores) for c in found.clusters] == [("cortex-a510", 4), ("cortex-a710", 3), ("cortex-x2", 1)]
    assert (found.mcpu, found.mattr, found.zig_cpu) == ("cortex-a710", ("+neon", "-sve"), "generic")  # it hides SVE


def test_sve_is_left_to_the_runtime_where_it_is(described: Described) -> None:
    found = described(probes.arm([probes.Arm(2, 0xD40, 2600)], f"{probes.V8_2} sve"))
    assert (found.mattr, found.zig_cpu, found.chains) == (("+neon", "-sve"), "neoverse_v1", 8)


def test_qualcomms_names(described: Described) -> None:
    found = described(probes.OLDER_PHONE)
    assert (found.core, found.cores, found.mcpu, found.fma_source) == ("kryo-4xx-gold", 4, "cortex-a76", "")


def test_a_device_of_one_core(described: Described) -> None:
    assert described(probes.arm([probes.Arm(1, 0xD08, 1500)], probes.V8_0)).cores == 1


def test_an_unknown_core(described: Described) -> None:
    printed = probes.arm([probes.Arm(2, 0x123, 2000, implementer=0x99)], probes.V8_0)
    assert (found := described(printed)).mcpu == "generic" and found.core == "maker 0x99 part 0x123"
    assert "# This core is not in the table of known cores" in toml(understand(files(printed)), "local")
    assert cores.find(0x51, 0x999).name == "Qualcomm part 0x999"


def test_an_x86_machine_without_cache_files(described: Described) -> None:
    found = described(probes.SMALL_VM)
    assert (found.mcpu, found.vector_bytes, found.registers, found.cores) == ("x86-64-v3", 32, 16, 2)
    assert (found.cache_source, found.l3_kilobytes, found.core) == ("", 0, "Intel(R) Xeon(R) Processor @ 2.50GHz")


def test_avx512_and_two_threads_a_core(described: Described) -> None:
    found = described(probes.SERVER)
    assert (found.mcpu, found.zig_cpu, found.vector_bytes, found.registers) == ("x86-64-v4", "x86_64_v4", 64, 32)
    assert (found.cores, found.l2_kilobytes, found.l2_shared_by) == (4, 1024, 1)
    assert (found.l3_kilobytes, found.l3_shared_by) == (36608, 4)


@pytest.mark.parametrize("printed", [probes.SERVER, probes.PHONE, probes.OLDER_PHONE, probes.PI_3_32_BIT])
def test_code_for_them(described: Described, printed: str, tmp_path: Path) -> None:
    assert compile_convolution(described(printed), tmp_path).stat().st_size > 0


def test_cores_asleep_are_told() -> None:
    found = understand(files(probes.PI_4.replace(f"{CPU}/present:0-3", f"{CPU}/present:0-7")))
    assert found.asleep == 4 and len(found.cpus) == 4
    assert "# 4 processors were asleep and are not counted" in toml(found, "adb")


def test_a_kernel_that_tells_its_processors_once() -> None:
    cpuinfo = (
        "Processor\t: AArch64 Processor rev 4 (aarch64)\nprocessor\t: 0\nprocessor\t: 1\nFeatures\t: fp asimd crc32\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd03\nHardware\t: Qualcomm MSM8939"
    )
    found = understand(files(probes.printed("aarch64", {"/proc/cpuinfo": cpuinfo})))
    assert [cpu.core for cpu in found.cpus] == ["cortex-a53", "cortex-a53"] and "asimd" in found.features
    assert (found.memory_megabytes, found.asleep) == (0, 0)


def test_nonsense_in_files_is_as_if_they_were_not_there() -> None:
    printed = probes.PI_4.replace(":1024K", ":all of it").replace(":1800000", ":<unknown>").replace(":0-3", ":")
    found = understand(files(printed + "a line of the login message\n"))
    assert {cpu.megahertz for cpu in found.cpus} == {0} and all(2 not in cpu.caches for cpu in found.cpus)


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        ("", "the device did not say what machine it is; does `uname -m` work there?"),
        ("uname:aarch64\n", "the device's /proc/cpuinfo names no processors"),
        (probes.PI_4.replace("uname:aarch64", "uname:riscv64"), "pi is a riscv64 machine; there are x86_64, aarch64"),
        (probes.PI_4.replace(" asimd", ""), r"processor of pi has no NEON \(asimd\), which the kernels need"),
        (probes.PI_3_32_BIT.replace(" vfpv4", ""), "processor of pi has no NEON with VFPv4, which the kernels need"),
        (
            probes.SMALL_VM.replace(" avx2", "").replace(" fma", ""),
            "processor of pi lacks avx2, fma; kernels need AVX2",
        ),
    ],
)
def test_devices_that_kernels_cannot_run_on(printed: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        toml(understand(files(printed)), "pi")


def test_file_names() -> None:
    names = [file_name(understand(files(text))) for text in (probes.PI_4, probes.PHONE, probes.SMALL_VM)]
    assert names == ["raspberry-pi-4-model-b-rev-1-4", "cortex-a710", "intel-r-xeon-r-processor-2-50ghz"]


def test_this_machine() -> None:
    """The script itself, and `native`, on whatever runs the tests."""
    found = understand(files(probe.run_on("local")))
    here = targets.load("native")
    assert (here.name, here.machine, here.cores) == ("native", found.machine, len(found.cpus))
    assert here.lanes in (4, 8, 16) and here.core_source == "/proc/cpuinfo of the device"


def test_the_emulator_is_no_device() -> None:
    with pytest.raises(TargetError, match="the emulator has no processor of its own to describe"):
        probe.run_on("emulator")


def test_another_device_is_asked_by_its_own_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    class Board(LocalDevice):
        def shell(self, script: str, timeout: float = 60.0) -> str:
            return probes.PI_5 if script == probe.SCRIPT else ""

    monkeypatch.setattr(devices, "connect", lambda name: Board(name))
    assert probe.run_on("ssh://pi@five") == probes.PI_5
    monkeypatch.undo()
    with pytest.raises(DeviceError, match="unknown device 'phone'; known: local, emulator, ssh://"):
        probe.run_on("phone")
