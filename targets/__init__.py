"""Targets: one device, one TOML. `load("arm64-android")`, `load("my-board.toml")` or `load("native")`."""

from __future__ import annotations

from pathlib import Path

from perse_compile.errors import TargetError
from perse_compile.targets.reading import read
from perse_compile.targets.target import Cluster, Target

__all__ = ["FOLDER", "NATIVE", "Cluster", "Target", "load", "names"]

FOLDER = Path(__file__).parent
NATIVE = "native"  # whatever this machine is


def names() -> list[str]:
    """The built-in targets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Target:
    """A built-in target by name, any by the path of its TOML, or this machine as "native". Raises TargetError."""
    if name == NATIVE:
        from perse_compile.targets.describe import native

        return native()
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise TargetError(f"no target file {name}; known targets: {', '.join(names())}")
        known = ", ".join([*names(), NATIVE])
        raise TargetError(f"unknown target {name!r}; known: {known}; or give a .toml file")
    return read(path)
