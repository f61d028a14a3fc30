"""The tuning database: nothing is lost, nothing wrong is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from perse_compile import targets
from perse_compile.errors import TuningError
from perse_compile.lowering.choices import default
from perse_compile.lowering.legal import is_legal
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.tuning import database as databases
from perse_compile.tuning import records
from perse_compile.tuning.database import SHIPPED, Database, default_path, export_to, import_from, open_database, read
from perse_compile.tuning.records import MEASURED, MODELLED, Record, target_key

TARGET = targets.load("x86_64-linux")
WORK = Workload("conv", 28, 28, 64, 128, 1, (3, 3), (1, 1), (1, 1), (1, 1), True, ("relu",))
KNOBS = default(WORK, TARGET)
assert isinstance(KNOBS, ConvKnobs)
OTHERS = [replace(KNOBS, unroll=n) for n in (1, 2, 4, 16)]


def record(knobs: ConvKnobs = OTHERS[0], cost: float = 0.5, **more: object) -> Record:
    given = {"best": True, **more}
    return Record(WORK, target_key(TARGET), knobs, MEASURED, "here", cost=cost, default=1.0, **given)  # type: ignore[arg-type]


def opened(path: Path) -> Database:
    return open_database(path, shipped=None)


def chosen(database: Database, work: Workload = WORK) -> tuple[object, str]:
    found = database.remembered(TARGET)(work)
    return (None, "") if found is None else (found.knobs, found.how)


def test_what_is_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "t.jsonl"
    written = [record(), record(OTHERS[1], best=False, error="crashed (signal 11)"), record(OTHERS[2], rounds=5)]
    opened(path).add(written)
    assert opened(path).records == written
    assert opened(tmp_path / "none.jsonl").records == []


def test_a_torn_line_is_not_read_and_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    opened(path).add([record()])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    assert len(opened(path).records) == 1
    opened(path).add([record(OTHERS[1])])
    assert [r.knobs for r in opened(path).records] == OTHERS[:2]
    path.write_bytes(b'{"versions"')  # not even one whole line
    opened(path).add([record(OTHERS[2])])
    assert [r.knobs for r in opened(path).records] == [OTHERS[2]]


WRITER = """
import sys
from tests.tuning.test_database import OTHERS, opened, record
from pathlib import Path
for n in range(20):
    opened(Path(sys.argv[1])).add([record(OTHERS[int(sys.argv[2])], cost=0.5 + n) for _ in range(5)])
"""


def test_two_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)], cwd=root, env=environment) for n in range(2)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert len(read(path)) == 200
    for n in range(2):
        assert sum(r.knobs == OTHERS[n] for r in read(path)) == 100


GARBAGE = {
    "x": "is not JSON",
    "[1]": "is no record of tuning",
    '{"a": 1}': "is no record of tuning",
    "\xff": "is not text",
}


@pytest.mark.parametrize("line", GARBAGE)
def test_garbage_is_an_error_that_names_file_and_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    opened(path).add([record()])
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(
        TuningError, match=rf"t\.jsonl, line 2 {GARBAGE[line]}; delete that line, or choose another file"
    ):
        opened(path)


CHANGES = {
    "how": ("guessed", "says 'guessed', which is neither measured nor modelled"),
    "target": (3, "has 'target' = 3 in the record"),
    "cost": ("fast", "has 'cost' = 'fast' in the record"),
    "colour": ("red", "has 'colour' = 'red' in the record"),
    "workload": ({}, "lacks 'family' in the workload"),
    "knobs": ({"rows": True}, "lacks 'block' in the knobs"),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_record_that_is_none(key: str, tmp_path: Path) -> None:
    value, complaint = CHANGES[key]
    line = {**json.loads(record().line()), key: value}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(TuningError, match=f"line 1 {complaint}"):
        opened(tmp_path / "t.jsonl")
    del line[key]
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    if key not in ("cost", "colour"):
        with pytest.raises(TuningError, match="line 1 lacks "):
            opened(tmp_path / "t.jsonl")


def test_other_versions_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    opened(path).add([record()])
    monkeypatch.setattr(records, "TEMPLATES", records.TEMPLATES + 1)
    records.versions.cache_clear()
    try:
        assert opened(path).records == []
        opened(path).add([record(OTHERS[1])])
        assert chosen(opened(path)) == (OTHERS[1], MEASURED)
    finally:
        records.versions.cache_clear()


def test_what_build_takes(tmp_path: Path) -> None:
    database = opened(tmp_path / "t.jsonl")
    assert chosen(database) == (None, "")
    database.add([replace(record(OTHERS[0]), how=MODELLED)])
    assert chosen(database) == (OTHERS[0], MODELLED)
    database.add([replace(record(OTHERS[1]), workload=replace(WORK, fused=("add", "relu")))])
    assert chosen(database) == (OTHERS[1], MEASURED)  # measured, though something else was behind it
    database.add([record(OTHERS[2], best=False), record(OTHERS[3])])
    assert chosen(database) == (OTHERS[3], MEASURED)
    database.add([replace(record(OTHERS[0]), threads=2), replace(record(OTHERS[1]), how=MODELLED)])
    assert chosen(database) == (OTHERS[3], MEASURED)
    database.add([record(OTHERS[2])])
    assert chosen(database) == (OTHERS[2], MEASURED)  # the newest
    assert chosen(database, replace(WORK, height=27)) == (None, "")
    assert database.remembered(targets.load("arm64-linux"))(WORK) is None


def test_targets_of_the_same_code_share(tmp_path: Path) -> None:
    twin = replace(TARGET, name="mine", description="mine", cores=TARGET.cores + 3)
    assert target_key(twin) == target_key(TARGET) != target_key(replace(TARGET, mcpu="skylake-avx512"))


def test_the_package_s_comes_first(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped.jsonl", tmp_path / "own.jsonl"
    opened(shipped).add([record(OTHERS[0])])
    assert chosen(open_database(own, shipped)) == (OTHERS[0], MEASURED)
    opened(own).add([record(OTHERS[1])])
    assert chosen(open_database(own, shipped)) == (OTHERS[1], MEASURED)
    assert databases.SHIPPED.exists()


def test_what_ships() -> None:
    """Measured, of this version, for a target that is built for, and knobs that its workloads may have."""
    target = targets.load("x86_64-linux")
    entries = read(SHIPPED)
    assert len(entries) == len(SHIPPED.read_text().splitlines()) > 0
    assert len({entry.workload for entry in entries}) == len(entries)
    for entry in entries:
        assert (entry.how, entry.target, entry.unit, entry.best) == (MEASURED, target_key(target), "seconds", True)
        assert is_legal(entry.workload, entry.knobs, target) and entry.where
        assert entry.cost is not None and entry.default is not None and 0 < entry.cost <= entry.default
        assert (entry.knobs == default(entry.workload, target)) == (entry.cost == entry.default)


def test_export_and_import(tmp_path: Path) -> None:
    database = opened(tmp_path / "t.jsonl")
    database.add([record(OTHERS[0]), record(OTHERS[1], best=False), record(OTHERS[2])])
    assert export_to(database, tmp_path / "out.jsonl") == 1
    other = opened(tmp_path / "other.jsonl")
    assert import_from(other, tmp_path / "out.jsonl") == (1, 0)
    assert import_from(other, tmp_path / "out.jsonl") == (0, 1)
    assert chosen(opened(other.path)) == (OTHERS[2], MEASURED)
    with pytest.raises(TuningError, match=r"out\.jsonl is there already; choose another name, or delete it"):
        export_to(database, tmp_path / "out.jsonl")
    with pytest.raises(TuningError, match=r"no tuning database .*none"):
        import_from(other, tmp_path / "none.jsonl")


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuningError, match=r"cannot write the tuning database .*; choose another place with --database"):
        Database(tmp_path / "file" / "t.jsonl").add([record()])
    with pytest.raises(TuningError, match="cannot read the tuning database"):
        opened(tmp_path)


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSE_TUNING", str(tmp_path / "a"))
    assert default_path() == tmp_path / "a"
    monkeypatch.delenv("PERSE_TUNING")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "perse-compile" / "tuning.jsonl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == Path.home() / ".cache" / "perse-compile" / "tuning.jsonl"
