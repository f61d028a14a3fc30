"""measured.json: what was measured of an artifact, the latest of each kind, with when, where, and of which heads.

Nothing needs this file. Who deletes it only loses figures of report.html, which then says that they are not there.
"""

from __future__ import annotations

import json
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from perse_compile.devices.files import written_atomically
from perse_compile.errors import ArtifactError
from perse_compile.manifest import PACK

MEASURED, VERSION = "measured.json", 1
KINDS = ("build", "bench", "personalise", "evaluate", "study")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Record by kind. Raises ArtifactError when the file is damaged or of another version."""
    path = folder / MEASURED
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        version, crc, records = found["version"], found["crc32"], found["records"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged; delete it, and measure again") from error
    if version != VERSION:
        raise ArtifactError(f"{path} is of version {version}, this perse-compile reads {VERSION}; delete it")
    if crc != _digest(records):
        raise ArtifactError(f"{path} is damaged (checksum does not match); delete it, and measure again")
    return {kind: dict(records[kind]) for kind in KINDS if kind in records}


def note(folder: Path, kind: str, found: dict[str, Any], /, **where: Any) -> None:
    """Keep it in place of the one before. Raises DeviceError when it cannot be written."""
    assert kind in KINDS
    try:
        records = read(folder)
    except ArtifactError:
        records = {}  # what cannot be read is no longer worth keeping
    told = {"when": now(), "heads_crc32": crc_of(folder / PACK), **where, **found}
    records[kind] = json.loads(json.dumps(told))
    text = json.dumps({"version": VERSION, "crc32": _digest(records), "records": records}, indent=1, sort_keys=True)
    with written_atomically(folder / MEASURED) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def crc_of(path: Path) -> int | None:
    """CRC-32 of the whole file; None if there is none."""
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:
        return None


def _digest(records: Any) -> int:
    return zlib.crc32(json.dumps(records, sort_keys=True).encode())
