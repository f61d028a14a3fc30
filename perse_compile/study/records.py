"""What a study has found so far: a file of JSON lines, so that it can be stopped and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perse_compile.devices.files import written_atomically
from perse_compile.errors import DataError

Key = tuple[Any, ...]
KEYS = ("kind", "seed", "user", "samples", "labels")  # what tells one record from another; not all have all


class Records:
    """The file. Its first line says which study it is of; a last line that was cut short is dropped."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Raises DataError when the file is of another study or damaged, DeviceError when it cannot be written."""
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        told = {"kind": "study", **identity}
        rows = _read(path) if path.exists() else []
        if rows and rows[0] != json.loads(json.dumps(told)):
            raise DataError(
                f"{path} is of another study ({_difference(rows[0], told)}); give another --output, or remove that file"
            )
        rows = [told, *rows[1:]]
        with written_atomically(path) as temporary:
            temporary.write_text("".join(map(_line, rows)), encoding="utf-8")
        self.rows.update((key_of(row), row) for row in rows[1:])

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def add(self, row: dict[str, Any]) -> None:
        """Kept from now on, whatever happens. Raises DataError."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}; what is there stays valid") from error
        self.rows[key_of(row)] = row

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Those of a kind, in order."""
        return [row for row in self.rows.values() if row["kind"] == kind]


def key_of(row: dict[str, Any]) -> Key:
    return tuple(row.get(name) for name in KEYS)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error}); give another --output, or remove that file") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append({**json.loads(line)})
        except (ValueError, TypeError):
            if number < len(lines):
                raise DataError(f"{path}, line {number}, is damaged; remove that line and go on") from None
    return rows


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    return ", ".join(name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name))
