"""Targets: every built-in loads, an own file works, and every mistake in one is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perse_compile import targets
from perse_compile.errors import TargetError
from tests.artifacts import ALL_TARGETS

OWN = (targets.FOLDER / "raspberry-pi-4.toml").read_text()


def test_the_built_in_ones() -> None:
    assert targets.names() == sorted(ALL_TARGETS)


@pytest.mark.parametrize("name", ALL_TARGETS)
def test_each_loads(name: str) -> None:
    target = targets.load(name)
    assert target.name == name and target.description and target.lanes in (4, 8, 16)
    assert target.machine in ("x86_64", "aarch64", "armv7l") and target.emulator.startswith("qemu-")
    assert target.mtriple.split("-")[0] in (target.machine, "armv7")


def test_an_own_file(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text(OWN.replace("cores = 4", "cores = 2"))
    target = targets.load(str(path))
    assert (target.name, target.cores, target.mattr) == ("my-board", 2, ("+neon",))


def test_unknown_name_and_missing_file() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'toaster'; known: arm64-android, .*; or give a .toml file"):
        targets.load("toaster")
    with pytest.raises(TargetError, match=r"no target file no/board.toml; known targets: arm64-android"):
        targets.load("no/board.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (OWN + "colour = 1\n", "has an unknown key 'colour'; known keys: description, "),
        (OWN.replace("mcpu", "# mcpu"), r"lacks the key 'mcpu' \(str\)"),
        (OWN.replace("cores = 4", 'cores = "4"'), "cores must be int, not '4'"),
        (OWN.replace("cores = 4", "cores = true"), "cores must be int, not True"),
        (OWN.replace("cores = 4", "cores = 0"), "cores must be int, not 0"),
        (OWN.replace("cores = 4", "cores = 4.0"), "cores must be int, not 4.0"),
        (OWN.replace('["+neon"]', '"+neon"'), "mattr must be a list of strings, not '.neon'"),
        (OWN.replace('["+neon"]', "[1]"), "mattr must be a list of strings"),
        (OWN.replace('machine = "aarch64"', "machine = 64"), "machine must be str, not 64"),
        (OWN + "cores = 5\n", "is not valid TOML: "),
        ("what", "is not valid TOML: "),
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
