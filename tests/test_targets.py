"""Targets: every built-in loads and says its sources, an own file works, every mistake is an error that names it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perse_compile import targets
from perse_compile.errors import TargetError
from perse_compile.targets import Cluster, Target, cores
from tests.artifacts import elf
from tests.compiled import compile_convolution

BOARD = (targets.FOLDER / "raspberry-pi-4.toml").read_text()
BIG_LITTLE = (targets.FOLDER / "rk3588.toml").read_text()
OF_THE_ISSUE = (
    "arm64-android", "arm64-android-dotprod", "arm64-linux", "armv7-linux", "graviton3", "jetson-orin",
    "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2", "rk3588", "x86_64-linux",
)  # fmt: skip
GROUPS = {
    "core_source": ("core", "clusters"),
    "vector_source": ("vector_bytes", "registers"),
    "cache_source": ("l1d_kilobytes", "l2_shared_by", "l3_kilobytes", "l3_shared_by"),
    "fma_source": ("fma_latency", "accumulate_latency", "fmas_per_cycle"),
}


def keys_of(text: str) -> set[str]:
    return set(re.findall(r"^(\w+) =", text.partition("[[clusters]]")[0], re.M)) | (
        {"clusters"} if "[[clusters]]" in text else set()
    )


def test_the_built_in_ones() -> None:
    assert targets.names() == sorted(OF_THE_ISSUE)


@pytest.mark.parametrize("name", targets.names())
def test_each_loads(name: str) -> None:
    target = targets.load(name)
    assert target.name == name and target.description and target.lanes in (4, 8, 16)
    assert target.machine in ("x86_64", "aarch64", "armv7l") and target.emulator.startswith("qemu-")
    assert target.mtriple.split("-")[0] in (target.machine, "armv7")
    assert 1 <= target.chains <= target.registers - 4, "no tile of the schedules would keep the multipliers busy"
    assert target.l1d_kilobytes <= target.l2_kilobytes and target.l3_shared_by <= max(
        target.cores, sum(cluster.cores for cluster in target.clusters)
    )


@pytest.mark.parametrize("name", targets.names())
def test_every_figure_has_a_source_and_no_source_is_a_link(name: str) -> None:
    text = (targets.FOLDER / f"{name}.toml").read_text()
    given = keys_of(text)
    for source, figures in GROUPS.items():
        assert (source in given) == bool(given & set(figures)), (source, given & set(figures))
    assert "http" not in text and text.startswith("# ")
    if "cache_source" not in given:
        assert "assumed" in text.partition("description")[0]


@pytest.mark.parametrize("name", [name for name in targets.names() if targets.load(name).core])
def test_a_board_and_the_table_of_cores_agree(name: str) -> None:
    target = targets.load(name)
    known = cores.MULTIPLIES[target.core]
    assert (target.fma_latency, target.accumulate_latency, target.fmas_per_cycle) == known[:3]
    assert target.mcpu == target.core and ("-sve" in target.mattr) == (target.core in cores.WITH_SVE)


def test_accumulators_that_keep_the_multipliers_busy() -> None:
    chains = {
        name: targets.load(name).chains for name in ("x86_64-linux", "arm64-linux", "raspberry-pi-3", "graviton3")
    }
    assert chains == {"x86_64-linux": 8, "arm64-linux": 8, "raspberry-pi-3": 4, "graviton3": 8}


def test_llvm_and_zig_know_every_processor() -> None:
    import tvm

    listed = subprocess.run([sys.executable, "-m", "ziglang", "targets"], check=True, capture_output=True, text=True)
    of_zig = set(re.findall(r"\.(\w+)", listed.stdout)) | set(re.findall(r'"(\w+)"', listed.stdout))
    of_llvm = {
        triple: set(
            tvm.get_global_func("target.llvm_get_cpu_archlist")(tvm.target.Target({"kind": "llvm", "mtriple": triple}))
        )
        for triple in {targets.load(name).mtriple for name in targets.names()}
    }
    for name in targets.names():
        target = targets.load(name)
        assert target.mcpu in of_llvm[target.mtriple] and target.zig_cpu.partition("+")[0] in of_zig
    known = {core.mcpu for parts in cores.PARTS.values() for core in parts.values()}
    wide, narrow = of_llvm["aarch64-unknown-linux-gnu"], of_llvm["armv7-unknown-linux-gnueabihf"]
    assert known - wide - narrow == set() and cores.IN_32_BIT - narrow == set() and cores.WITH_SVE - wide == set()
    assert {mcpu.replace("-", "_") for mcpu in known & wide} - of_zig == set()


@pytest.mark.parametrize("name", targets.names())
def test_code_for_each(name: str, tmp_path: Path) -> None:
    """Lowered and compiled; tests/test_build.py runs it too, for one target of each instruction set."""
    target = targets.load(name)
    found = elf(compile_convolution(target, tmp_path))
    assert {"x86_64": 62, "aarch64": 183, "armv7l": 40}[target.machine] == found["machine"]


def test_an_own_file(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text(BOARD.replace("cores = 4", "cores = 2"))
    target = targets.load(str(path))
    assert (target.name, target.cores, target.mattr) == ("my-board", 2, ("+neon",))


def test_what_may_be_left_out(tmp_path: Path) -> None:
    optional = r"core|\w+_source|l1d_\w+|l2_\w+|fma\w+|accumulate\w+"
    path = tmp_path / "board.toml"
    path.write_text("\n".join(line for line in BOARD.splitlines() if not re.match(rf"({optional}) =", line)))
    target = targets.load(str(path))
    assert (target.core, target.l1d_kilobytes, target.l2_kilobytes, target.l3_kilobytes) == ("", 32, 512, 0)
    assert (target.fma_latency, target.fmas_per_cycle, target.chains, target.clusters) == (4, 2.0, 8, ())


def test_clusters() -> None:
    target = targets.load("rk3588")
    assert [(c.core, c.cores, c.l2_kilobytes) for c in target.clusters] == [
        ("cortex-a76", 4, 512),
        ("cortex-a55", 4, 128),
    ]
    assert (target.core, target.cores, target.l2_kilobytes, hash(target)) == ("cortex-a76", 4, 512, hash(target))


def test_unknown_name_and_missing_file() -> None:
    with pytest.raises(
        TargetError, match=r"unknown target 'toaster'; known: arm64-android, .*, native; or give a .toml file"
    ):
        targets.load("toaster")
    with pytest.raises(TargetError, match=r"no target file no/board.toml; known targets: arm64-android"):
        targets.load("no/board.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOARD + "colour = 1\n", "has an unknown key 'colour'; known keys: description, "),
        (BOARD.replace("mcpu", "# mcpu"), r"lacks the key 'mcpu' \(str\)"),
        (BOARD.replace("mattr", "# mattr"), r"lacks the key 'mattr' \(a list of strings\)"),
        (BOARD.replace("cores = 4", 'cores = "4"'), "cores must be int, not '4'"),
        (BOARD.replace("cores = 4", "cores = true"), "cores must be int, not True"),
        (BOARD.replace("cores = 4", "cores = 0"), "cores must be int, not 0"),
        (BOARD.replace("cores = 4", "cores = 4.0"), "cores must be int, not 4.0"),
        (BOARD.replace("l1d_kilobytes = 32", "l1d_kilobytes = -1"), "l1d_kilobytes must be int, not -1"),
        (BOARD.replace("fmas_per_cycle = 1", "fmas_per_cycle = inf"), "fmas_per_cycle must be float, not inf"),
        (BOARD.replace("fmas_per_cycle = 1", "fmas_per_cycle = nan"), "fmas_per_cycle must be float, not nan"),
        (BOARD.replace("fmas_per_cycle = 1", 'fmas_per_cycle = "1"'), "fmas_per_cycle must be float, not '1'"),
        (BOARD.replace('["+neon"]', '"+neon"'), "mattr must be a list of strings, not '.neon'"),
        (BOARD.replace('["+neon"]', "[1]"), "mattr must be a list of strings"),
        (BOARD.replace('machine = "aarch64"', "machine = 64"), "machine must be str, not 64"),
        (BOARD.replace("vector_bytes = 16", "vector_bytes = 12"), "vector_bytes must be 16, 32 or 64, not 12"),
        (BOARD + "cores = 5\n", "is not valid TOML: "),
        ("what", "is not valid TOML: "),
        (BOARD + "clusters = 2\n", r"clusters must be \[\[clusters\]\] tables, not 2"),
        (BIG_LITTLE + "speed = 1\n", r"clusters\[1\] has an unknown key 'speed'; known keys: core, cores, megahertz"),
        (BIG_LITTLE + '[[clusters]]\ncore = "x"\n', r"clusters\[2\] lacks the key 'cores' \(int\)"),
        (BIG_LITTLE + "megahertz = 0\n", r"clusters\[1\]: megahertz must be int, not 0"),
        (
            BIG_LITTLE.replace("cores = 4\ncore_s", "cores = 8\ncore_s"),
            r"cores is 8, but \[\[clusters\]\] have 4 of cortex",
        ),
        (
            BIG_LITTLE.replace('core = "cortex-a76"\ncores = 4\ncore_s', 'core = "cortex-x9"\ncores = 4\ncore_s'),
            r"core must be one of \[\[clusters\]\] \(cortex-a76, cortex-a55\), not 'cortex-x9'",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text)
    with pytest.raises(TargetError, match=says) as caught:
        targets.load(str(path))
    assert str(caught.value).startswith(str(path))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(b'description = "\xff"\n')
    with pytest.raises(TargetError, match="is not valid TOML"):
        targets.load(str(path))


def test_not_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD)

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(TargetError, match=f"cannot read {path}: Permission denied"):
        targets.load(str(path))


def test_the_document_has_every_target_and_every_key() -> None:
    text = (Path(__file__).parents[1] / "docs" / "targets.md").read_text()
    keys = [field.name for kind in (Target, Cluster) for field in dataclasses.fields(kind) if field.name != "name"]
    assert [word for word in [*targets.names(), *keys] if f"`{word}`" not in text and f"[[{word}]]" not in text] == []
