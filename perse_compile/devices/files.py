"""Files on this machine that are there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perse_compile.errors import DeviceError


@contextmanager
def written_atomically(to: Path) -> Iterator[Path]:
    """A file beside `to`, for the caller to fill, that takes its place at the end. Raises DeviceError."""
    temporary = None
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{to.name}.", dir=to.parent)
        os.close(descriptor)
        os.chmod(temporary, 0o644)
        yield Path(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, to)
        temporary = None
    except OSError as error:
        raise DeviceError(f"cannot write {to}: {error.strerror}; free some space (nothing changed)") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def files_in(source: Path, to: str) -> dict[str, Path]:
    """A file, or the files of a folder, by where each goes: `to`, or a path in it."""
    if not source.is_dir():
        return {to: source}
    return {f"{to}/{path.relative_to(source).as_posix()}": path for path in sorted(source.rglob("*")) if path.is_file()}
