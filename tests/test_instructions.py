"""`benchmarks/instructions.py`: a network's stages counted under the emulator, one by one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from perse_compile import targets
from perse_compile.building.build import build
from perse_compile.passes import default_pipeline
from perse_compile.pipeline import run
from tests.artifacts import emulator, tiny_network

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.arm
def test_stages_are_less_than_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator("arm64-linux")
    monkeypatch.syspath_prepend(BENCHMARKS)
    instructions = importlib.import_module("instructions")
    target, program = targets.load("arm64-linux"), tiny_network()
    run(program, default_pipeline(("relu", "relu_2")))
    build(program, target, tmp_path / "tiny")
    image = instructions.picture(program, tmp_path)
    perse = instructions.with_symbols(tmp_path / "tiny", target, tmp_path / "objects")
    counts = instructions.by_stage(program, target, perse, image)
    assert list(counts) == [exit.name for exit in program.exits]
    whole = instructions.count([target.emulator, str(tmp_path / "tiny" / "perse"), "run", str(image)])
    assert 0 < sum(counts.values()) < whole
