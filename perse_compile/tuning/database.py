"""What was found by tuning: a file of JSON lines that only grows, and a read-only one that comes with the package.

Records are written in one go under a lock and flushed to the disk, so that a crash loses at most the batch being
written. What a crash leaves of a line is not read, and is cut off at the next write.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from perse_compile.errors import TuningError
from perse_compile.lowering.choices import Chosen, Knobs, Remembered
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target
from perse_compile.tuning.records import MEASURED, Record, parse, target_key

SHIPPED = Path(__file__).parent / "shipped.jsonl"


def default_path() -> Path:
    """PERSE_TUNING, or tuning.jsonl in this program's folder of the user's cache."""
    if named := os.environ.get("PERSE_TUNING"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "perse-compile" / "tuning.jsonl"


@dataclass
class Database:
    """Records of these versions, oldest first; those of the package come before the user's."""

    path: Path
    records: list[Record] = field(default_factory=list)

    def add(self, records: Iterable[Record]) -> None:
        """Append, whole and lasting. Raises TuningError."""
        new = list(records)
        append(self.path, [record.line() for record in new])
        self.records += new

    def remembered(self, target: Target, threads: int = 1) -> Remembered:
        """Answers for Choices: measured before modelled, this very workload before one with other operations behind
        it, this number of threads before others, and then the newest."""
        best: dict[Workload, list[tuple[int, Record]]] = {}
        for age, record in enumerate(self.records):
            if record.best and record.target == target_key(target):
                best.setdefault(replace(record.workload, fused=()), []).append((age, record))

        def find(work: Workload) -> Chosen | None:
            def rank(entry: tuple[int, Record]) -> tuple[bool, bool, bool, int]:
                age, record = entry
                return record.how == MEASURED, record.workload == work, record.threads == threads, age

            candidates = best.get(replace(work, fused=()))
            if not candidates:
                return None
            record = max(candidates, key=rank)[1]
            return Chosen(record.knobs, record.how, record.where)

        return find

    def tried(self, work: Workload, target: Target, where: str, threads: int) -> dict[Knobs, Record]:
        """What is known of a task on a device: the newest record of each knobs."""
        key = target_key(target)
        return {r.knobs: r for r in self.records if _about(r) == (work, key, where, threads) and not r.best}

    def chosen(self, work: Workload, target: Target, where: str, threads: int) -> Record | None:
        """The newest winner of a task on a device that won more than once."""
        wanted = work, target_key(target), where, threads
        found = (r for r in reversed(self.records) if r.best and r.rounds > 1 and _about(r) == wanted)
        return next(found, None)


def _about(record: Record) -> tuple[Workload, str, str, int]:
    return record.workload, record.target, record.where, record.threads


def open_database(path: Path | None = None, shipped: Path | None = SHIPPED) -> Database:
    """The user's database, which need not be there yet, behind the package's. Raises TuningError."""
    path = path or default_path()
    records = [*(read(shipped) if shipped is not None else []), *read(path)]
    return Database(path, records)


def read(path: Path, *, missing: bool = True) -> list[Record]:
    """The records of a file that are of these versions; `missing`: a file that is not there has none.

    The last line counts only if it is whole. Raises TuningError naming file and line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if missing:
            return []
        raise TuningError(f"no tuning database {path}") from error
    except OSError as error:
        raise TuningError(f"cannot read the tuning database {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = parse(line.decode())
        except (TuningError, UnicodeDecodeError) as error:
            reason = error if isinstance(error, TuningError) else "is not text"
            raise TuningError(f"{path}, line {number} {reason}; delete that line, or choose another file") from error
        if record is not None:
            found.append(record)
    return found


def append(path: Path, lines: list[str]) -> None:
    """Whole lines at the end of a file, after whole lines, one writer at a time. Raises TuningError."""
    if not lines:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _cut_torn_line(file)
            data = memoryview("".join(f"{line}\n" for line in lines).encode())
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise TuningError(
            f"cannot write the tuning database {path}: {error.strerror}; choose another place with --database"
        ) from error


def _cut_torn_line(file: BinaryIO) -> None:
    """What a crash left of a line is no record: the file ends with its last whole line again."""
    end = file.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - 4096)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    if position < end:
        file.truncate(position)


def export_to(database: Database, path: Path) -> int:
    """The newest winners, in a file of their own; gives the number of records."""
    newest = {(r.workload, r.target, r.how, r.threads): r for r in database.records if r.best}
    if path.exists():
        raise TuningError(f"{path} is there already; choose another name, or delete it")
    append(path, [record.line() for record in newest.values()])
    return len(newest)


def import_from(database: Database, path: Path) -> tuple[int, int]:
    """Records of another file that are not here yet; gives how many came and how many were there. All or nothing."""
    there = set(database.records)
    given = read(path, missing=False)
    new = [record for record in dict.fromkeys(given) if record not in there]
    database.add(new)
    return len(new), len(given) - len(new)
