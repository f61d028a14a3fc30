"""Targets: one device, one TOML. `load("arm64-android")` or `load("my-board.toml")`."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perse_compile.errors import TargetError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """What the compiler knows of a device. Every field is a key of the TOML, and every key is a field."""

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
    cores: int
    l2_kilobytes: int  # per core

    @property
    def lanes(self) -> int:
        """Float32 lanes of one vector register."""
        return self.vector_bytes // 4


def names() -> list[str]:
    """The built-in targets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Target:
    """A built-in target by name, or any by the path of its TOML. Raises TargetError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise TargetError(f"no target file {name}; known targets: {', '.join(names())}")
        raise TargetError(f"unknown target {name!r}; known: {', '.join(names())}; or give a .toml file")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} is not valid TOML: {error}") from error
    return _checked(path, values)


def _checked(path: Path, values: dict[str, Any]) -> Target:
    fields = {f.name: str(f.type) for f in dataclasses.fields(Target) if f.name != "name"}
    for key in values:
        if key not in fields:
            raise TargetError(f"{path} has an unknown key {key!r}; known keys: {', '.join(fields)}")
    for key, kind in fields.items():
        if key not in values:
            raise TargetError(f"{path} lacks the key {key!r} ({kind})")
        value = values[key]
        fits = {
            "str": isinstance(value, str),
            "int": isinstance(value, int) and not isinstance(value, bool) and value > 0,
            "tuple[str, ...]": isinstance(value, list) and all(isinstance(item, str) for item in value),
        }[kind]
        if not fits:
            raise TargetError(
                f"{path}: {key} must be {kind.replace('tuple[str, ...]', 'a list of strings')}, not {value!r}"
            )
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Target(name=path.stem, **lists)
