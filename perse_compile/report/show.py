"""From a path to figures, and to the page beside it; whether a page that is there is still true."""

from __future__ import annotations

import re
from pathlib import Path

from perse_compile.artifact import open_artifact
from perse_compile.devices.files import written_atomically
from perse_compile.errors import ProgramError
from perse_compile.program import Program
from perse_compile.report.figures import Figures, artifact_figures, program_figures
from perse_compile.report.page import made_of, page

REPORT = "report.html"
OURS = '<meta name="generator" content="perse-compile">'


def figures_of(path: Path) -> Figures:
    """Raises ProgramError or ArtifactError. `page_is_stale` says so when the page beside it is of other files."""
    folder = path.is_dir()
    found = artifact_figures(open_artifact(path)) if folder else program_figures(Program.load(path), path)
    return {**found, "page_is_stale": _stale(page_path(path), made_of(found["files"]))}


def page_path(path: Path) -> Path:
    """report.html in an artifact, NAME.html beside a program."""
    return path / REPORT if path.is_dir() else path.with_suffix(".html")


def write_page(path: Path, output: Path | None = None) -> tuple[Figures, Path]:
    """Raises ProgramError rather than replace a page that is not ours."""
    found, to = figures_of(path), output or page_path(path)
    if output is not None and not to.parent.is_dir():
        raise ProgramError(f"no folder {to.parent} to write {to.name} to; make it, or choose another place with -o")
    write(found, to)
    return {**found, "page_is_stale": None}, to


def write(found: Figures, to: Path) -> None:
    """Raises ProgramError, or DeviceError when the disk does not take it."""
    if to.is_dir() or (to.exists() and OURS not in _read(to)):
        raise ProgramError(f"{to} is there and is not a page of perse-compile; choose another place with -o")
    with written_atomically(to) as temporary:
        temporary.write_text(page(found), encoding="utf-8")


def _stale(path: Path, of: str) -> str | None:
    text = _read(path) if path.exists() else ""
    said = re.search(r'<meta name="perse-made-of" content="([^"]*)">', text)
    if said is None or said[1] == of:
        return None
    return f"{path} is out of date: it is of {said[1]}; `perse-compile show --html` makes it anew"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
