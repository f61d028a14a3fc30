"""What commands leave behind for the page: measured.json beside an artifact, and the page itself, made anew.

A page that cannot be written is told and is no reason to fail: the work is done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perse_compile.artifact import Artifact
from perse_compile.errors import PerseError
from perse_compile.personalise.session import Session
from perse_compile.program import Program
from perse_compile.report import records
from perse_compile.report.figures import artifact_figures, program_figures
from perse_compile.report.show import REPORT, page_path, write

Notice = Callable[[str], None]
RUNS, MACS = (3, 20), 20e9  # of the full network when it is timed after a build: so many, and no more work than this


def keep(artifact: Artifact, kind: str, found: dict[str, Any], notice: Notice, /, **where: Any) -> None:
    """One record, and the page with it."""
    try:
        records.note(artifact.folder, kind, found, **where)
    except PerseError as error:
        notice(f"what was measured is not kept: {error}")
    renew(artifact, notice)


def renew(artifact: Artifact, notice: Notice) -> None:
    """The page of an artifact whose heads changed."""
    try:
        write(artifact_figures(artifact), artifact.folder / REPORT)
    except PerseError as error:
        notice(f"{artifact.folder / REPORT} is out of date: {error}")


def keep_build(artifact: Artifact, selftest: dict[str, Any] | None, device: Any, notice: Notice) -> None:
    """What verifying said and, where the executable runs without an emulator, its memory and times."""
    told: dict[str, Any] = {"device": device and device.name, "selftest": selftest, "memory_bytes": None}
    if device is not None:
        told["memory_bytes"] = artifact.call(device, ["info"])["memory_bytes"]
    if device is not None and device.kind == "local":
        macs = artifact.manifest["exits"][-1]["macs"]
        runs = max(RUNS[0], min(RUNS[1], int(MACS / max(macs, 1))))
        bench = artifact.call(device, ["bench", "--runs", str(runs)])
        keep(artifact, "bench", bench, notice, device=device.name, kind=device.kind)
    keep(artifact, "build", told, notice)


def keep_of(session: Session, kind: str, found: dict[str, Any], data: str | None, notice: Notice) -> None:
    """What a command measured with the artifact's own heads; times under an emulator say nothing and are not kept."""
    if session.pack is not None or (kind == "bench" and session.device.kind == "emulator"):
        return
    where = {"device": session.device.name, "kind": session.device.kind, **({"data": data} if data else {})}
    keep(session.artifact, kind, found, notice, **where)


def keep_program(program: Program, path: Path, notice: Notice) -> None:
    """NAME.html beside NAME.perse."""
    try:
        write(program_figures(program, path), page_path(path))
    except PerseError as error:
        notice(f"no page of {path}: {error}")
