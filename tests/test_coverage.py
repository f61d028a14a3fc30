"""`make coverage`: its records, its page, and that nothing stops it. What it measures is docs/coverage.md."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from perse_compile import targets
from perse_compile.building.build import build
from perse_compile.driver import insert_exits, list_models
from perse_compile.program import Program

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NOW = {"code": "abc", "versions": {"torch": "2"}}


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with records and a page of its own."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("coverage")
    assert Path(str(module.__file__)).parent == BENCHMARKS
    monkeypatch.setattr(module, "RECORDS", tmp_path / "coverage.jsonl")
    monkeypatch.setattr(module, "PAGE", tmp_path / "coverage.md")
    return module


def record(name: str, **columns: object) -> dict[str, object]:
    return {"network": name, **NOW, "date": "2026-01-01", "ok": True, **columns}


def test_the_page_in_docs_is_of_the_records(coverage: ModuleType) -> None:
    records = coverage.read(BENCHMARKS / "results" / "coverage.jsonl")
    page = importlib.import_module("coverage_page").page(records, list_models())
    assert (BENCHMARKS.parent / "docs" / "coverage.md").read_text() == page
    bounds = {"host": 1e-3, "arm64": 1e-3, "train": 1e-4, "train_arm64": 1e-4}
    for name, found in records.items():
        for column, bound in bounds.items():
            differences = found.get(column, {}).get("differences", {}).values()
            assert max(differences, default=0) <= bound, f"{name} {column}"


def test_records_survive_a_crash(coverage: ModuleType) -> None:
    path = coverage.RECORDS
    assert coverage.read(path) == {}
    coverage.append(path, record("a"))
    coverage.append(path, record("b"))
    path.write_text(path.read_text()[:-20])  # the last line cut short
    coverage.append(path, record("c"))
    coverage.append(path, record("a", ok=False))
    found = coverage.read(path)
    assert list(found) == ["a", "c"] and not found["a"]["ok"]


def test_what_is_done_with_this_code_is_not_done_again(coverage: ModuleType) -> None:
    assert coverage.is_current(record("a"), NOW)
    for other in (None, record("a", ok=False), record("a", code="abd"), record("a", versions={"torch": "3"})):
        assert not coverage.is_current(other, NOW)


def test_a_failure_is_recorded_and_the_run_goes_on(
    coverage: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What cannot be traced; what crashes (here: a network that is no network, and a process that is killed)."""
    found = coverage.run("no_such_network", tmp_path, lambda what: None)
    assert not found["ok"] and "unknown model 'no_such_network'" in found["trace"]["error"]
    real = subprocess.Popen

    def killed(words: list[str], **options: object) -> subprocess.Popen[str]:
        code = 'import os, signal; print(\'{"begun": "host"}\', flush=True); os.kill(os.getpid(), signal.SIGKILL)'
        return real([sys.executable, "-c", code], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", killed)
    found = coverage.run("resnet18", tmp_path, lambda what: None)
    assert found == {"ok": False, "host": {"ok": False, "error": f"the process ended: {signal.Signals.SIGKILL.name}"}}


def test_the_smallest_first_each_at_once_on_the_page(
    coverage: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def run(name: str, work: Path, follow: object) -> dict[str, object]:
        order.append(name)
        if len(order) == 3:
            raise KeyboardInterrupt
        good = {"trace": {"ok": True, "seconds": 1.0}}
        return {"ok": True, **good} if name != "resnet18" else {"ok": False, "trace": {"ok": False, "error": "no luck"}}

    monkeypatch.setattr(coverage, "run", run)
    monkeypatch.setattr(sys, "argv", ["coverage.py", "--only", "vgg11", "resnet18", "squeezenet1_1", "alexnet"])
    with pytest.raises(SystemExit) as stopped:
        coverage.main()
    assert stopped.value.code == 130 and order[:2] == ["squeezenet1_1", "alexnet"]
    with pytest.raises(SystemExit) as failed:
        coverage.main()
    assert failed.value.code == 1 and order[3:] == ["resnet18", "vgg11"]  # the others are done
    page = coverage.PAGE.read_text()
    assert "- `resnet18`: trace: no luck" in page and "| trace | 3 of 68 |" in page and "`vgg13`" in page
    assert [json.loads(line)["network"] for line in coverage.RECORDS.read_text().splitlines()] == [
        "squeezenet1_1", "alexnet", "resnet18", "vgg11",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["coverage.py", "--family", "nothing"])
    with pytest.raises(SystemExit, match="no such network"):
        coverage.main()
    capsys.readouterr()


def test_great_networks_are_emulated_with_smaller_images(coverage: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    network = importlib.import_module("coverage_network")
    program = insert_exits("shufflenet_v2_x0_5", exits=1, weights="none", input_size=(96, 64))
    monkeypatch.setattr(network, "MOST_EMULATED", program.exits[-1].macs)
    assert network.small_enough(program) == (96, 64)
    monkeypatch.setattr(network, "MOST_EMULATED", program.exits[-1].macs / 4 - 1)
    assert network.small_enough(program) == (24, 16)
    page = importlib.import_module("coverage_page")
    trace, arm = {"ok": True, "input": [3, 96, 64]}, {"ok": True, "seconds": 7.0, "input": [3, 24, 16]}
    assert page.row("it", {"trace": {**trace, "seconds": 1.0, "weight_bytes": 0}, "arm64": arm})[10] == "7 at 24x16"
    assert page.reduced(trace, {**arm, "input": trace["input"]}) == page.reduced(trace, {"ok": True}) == ""


def test_from_a_name_to_an_artifact(tmp_path: Path) -> None:
    """One network as coverage does it; the others are its business."""
    insert_exits("shufflenet_v2_x0_5", exits=3, weights="none", input_size=(64, 64), output=tmp_path / "it.perse")
    built = build(Program.load(tmp_path / "it.perse"), targets.load("x86_64-linux"), tmp_path / "it")
    assert built.selftest is not None and [exit["stages"] for exit in built.selftest["exits"]] == [1, 2, 3, 4]
    assert max(exit["max_rel_diff"] for exit in built.selftest["exits"]) < 1e-4
