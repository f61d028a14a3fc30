"""A target's TOML, checked: every mistake is an error that names the file and the key."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from perse_compile.errors import TargetError
from perse_compile.targets.target import Cluster, Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WIDTHS = (16, 32, 64)  # bytes of vectors that the schedules can use
KINDS = {"tuple[str, ...]": "a list of strings", "tuple[Cluster, ...]": "[[clusters]] tables"}


def read(path: Path) -> Target:
    """The target that `path` describes, named after the file. Raises TargetError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    return from_values(values, str(path), path.stem)


def from_values(values: dict[str, Any], where: str, name: str) -> Target:
    """Keys and values to a target; `where` begins the message of an error. Raises TargetError."""
    checked = _checked(values, Target, where)
    tables = [_checked(table, Cluster, f"{where}: clusters[{i}]") for i, table in enumerate(values.get("clusters", []))]
    if tables:
        checked["clusters"] = tuple(Cluster(**table) for table in tables)
    target = Target(name=name, **checked)
    if target.vector_bytes not in WIDTHS:
        widths = ", ".join(map(str, WIDTHS[:-1]))
        raise TargetError(f"{where}: vector_bytes must be {widths} or {WIDTHS[-1]}, not {target.vector_bytes}")
    if target.clusters:
        _check_clusters(target, where)
    return target


def _checked(values: dict[str, Any], kind: type[Target | Cluster], where: str) -> dict[str, Any]:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name != "name"}
    for key in values:
        if key not in fields:
            raise TargetError(f"{where} has an unknown key {key!r}; known keys: {', '.join(fields)}")
    for key, field in fields.items():
        expected = KINDS.get(str(field.type), str(field.type))
        if key not in values:
            if field.default is dataclasses.MISSING:
                raise TargetError(f"{where} lacks the key {key!r} ({expected})")
        elif not _fits(values[key], str(field.type)):
            raise TargetError(f"{where}: {key} must be {expected}, not {values[key]!r}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _fits(value: Any, kind: str) -> bool:
    if kind == "str":
        return isinstance(value, str)
    if kind in ("int", "float"):
        number = (int,) if kind == "int" else (int, float)
        return isinstance(value, number) and not isinstance(value, bool) and 0 < value < math.inf
    return isinstance(value, list) and all(
        isinstance(item, str if kind == "tuple[str, ...]" else dict) for item in value
    )


def _check_clusters(target: Target, where: str) -> None:
    """The cores that the runtime uses are all those of one kind among the clusters."""
    kinds = dict.fromkeys(cluster.core for cluster in target.clusters)
    if target.core not in kinds:
        raise TargetError(f"{where}: core must be one of [[clusters]] ({', '.join(kinds)}), not {target.core!r}")
    there = sum(cluster.cores for cluster in target.clusters if cluster.core == target.core)
    if target.cores != there:
        raise TargetError(f"{where}: cores is {target.cores}, but [[clusters]] have {there} of {target.core}")
