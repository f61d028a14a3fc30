"""`tune` from first to last by ssh and adb: a real sshd on loopback, a stand-in phone whose executables qemu runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perse_compile import devices, targets
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.network import lower
from perse_compile.program import Program
from perse_compile.tuning import prepare
from perse_compile.tuning.database import open_database, read
from perse_compile.tuning.records import MEASURED
from perse_compile.tuning.tune import Tuning
from tests.artifacts import emulator
from tests.stand_ins.phone import Phones
from tests.stand_ins.sshd import Sshd


@pytest.fixture(autouse=True)
def here(tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "BATCH", 4)
    tiny.save(tmp_path / "tiny.perse")


def tuned(call: Any, tiny: Program, target: str, device: str) -> None:
    """One batch and its finalists, measured there; kept, believed by `build`, and nothing is left on the device."""
    command = ("tune", "--target", target, "--device", device, "--trials", "1", "--database", "t.jsonl", "--json")
    found = json.loads(call(*command)[0])
    with devices.connect(device) as there:
        assert found["where"] == there.describe().processor
    assert (found["how"], found["unit"], found["interrupted"]) == (MEASURED, "seconds", False)
    assert 0 < found["trials"] <= 8 and found["not_measured"] == [] and 0 < found["after"] <= found["before"]
    assert all(record.error is None and record.where == found["where"] for record in read(Path("t.jsonl")))
    known = targets.load(target)
    choices = Choices(known, open_database(Path("t.jsonl"), None).remembered(known))
    lower(tiny, choices)
    assert choices.summary()["measured"] >= 1 and choices.summary()["where"] == [found["where"]]


def test_by_ssh(tiny: Program, sshd: Sshd, ssh_client: None, call: Any) -> None:
    tuned(call, tiny, "x86_64-linux", sshd.name)
    assert list(sshd.work.glob("lent/*")) == []


@pytest.mark.arm
def test_by_adb(tiny: Program, phones: Phones, call: Any) -> None:
    emulator("arm64-android")
    tuned(call, tiny, "arm64-android", "adb")
    assert list(phones.work("A1").glob("lent/*")) == []


@pytest.mark.arm
def test_the_cable_is_pulled(tiny: Program, phones: Phones, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; the batches before are kept, and the same command goes on from there."""
    emulator("arm64-android")
    usual = Tuning._batch

    def batch(tuning: Tuning, standing: Any) -> None:
        phones.pull_the_cable()
        usual(tuning, standing)

    command = ("tune", "--target", "arm64-android", "--device", "adb", "--trials", "1", "--database", "t.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "_batch", batch)
        out, err = call(*command, code=1)
    assert out == "" and err.startswith("error: lost the connection to adb:A1") and err.count("\n") == 1
    kept = read(Path("t.jsonl"))
    assert kept and all(record.error is None for record in kept)
    assert "adb sees no device; connect one" in call(*command, code=1)[1]
    assert len(read(Path("t.jsonl"))) == len(kept)
