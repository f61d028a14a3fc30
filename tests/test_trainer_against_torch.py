"""The compiled training step against PyTorch: same data, order and seed, 20 steps, every exit, every kind of target."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.train_steps import compile_driver, make_steps, run_driver, train_in_torch
from perse_compile import manifest, targets
from perse_compile.building.build import build
from perse_compile.passes import default_pipeline
from perse_compile.pipeline import run
from perse_compile.program import Program

from . import models
from .artifacts import device_for, tiny_program
from .helpers import traced

STEPS = 20
TOLERANCE = 1e-4  # relative: of the loss, and of the largest weight
MACHINES = ["x86_64-linux", *(pytest.param(name, marks=pytest.mark.arm) for name in ("arm64-android", "armv7-linux"))]


@pytest.fixture(scope="module")
def program() -> Program:
    return tiny_program()


@pytest.fixture(scope="module", params=MACHINES)
def trainer(
    request: pytest.FixtureRequest, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """(target, artifact, train_steps executable)."""
    target = targets.load(request.param)
    device_for(target.name)
    folder = tmp_path_factory.mktemp(target.name) / "tiny"
    build(program, target, folder)
    shutil.copyfile(folder / manifest.PACK, folder / "factory.pack")
    executable = folder.parent / "train_steps"
    compile_driver(folder, target, executable)
    return target.name, folder, executable


@pytest.mark.parametrize("kind", ["hard", "soft", "mixed"])
@pytest.mark.parametrize("exit", [0, 1, 2])
def test_twenty_steps(trainer: tuple[str, Path, Path], exit: int, kind: str, tmp_path: Path) -> None:
    target, folder, executable = trainer
    factory = (folder / "factory.pack").read_bytes()
    (folder / manifest.PACK).write_bytes(factory)
    before = manifest.read_pack(folder / manifest.PACK).exits
    steps = make_steps(len(before[exit].shift), len(before[exit].bias), kind, STEPS)
    command = [*device_for(target).prefix, str(executable)]
    got = run_driver(command, folder, exit, steps, tmp_path / "steps.bin")
    expected = train_in_torch(before[exit], steps)
    np.testing.assert_allclose(got.losses, expected.losses, rtol=TOLERANCE)
    for found, want, start in (
        (got.weight, expected.weight, before[exit].weight),
        (got.bias, expected.bias, before[exit].bias),
    ):
        assert np.abs(want - start).max() > 1e-3  # it did learn something
        assert np.abs(found - want).max() <= TOLERANCE * np.abs(want).max()
    after = manifest.read_pack(folder / manifest.PACK).exits
    for other in set(range(len(before))) - {exit}:
        np.testing.assert_array_equal(after[other].weight, before[other].weight)


def test_more_classes_than_a_kernel_has_room_for(tmp_path: Path) -> None:
    """ImageNet-21k's: a row of logits is worked on in parts."""
    program = run(traced(models.Plain(21841), "many"), default_pipeline(1))
    built = build(program, targets.load("x86_64-linux"), tmp_path / "many")
    assert built.selftest is not None
    assert max(exit["max_rel_diff"] for exit in built.selftest["exits"]) < 5e-5
    compile_driver(tmp_path / "many", targets.load("x86_64-linux"), tmp_path / "train_steps")
    before = manifest.read_pack(tmp_path / "many" / manifest.PACK).exits[0]
    steps = make_steps(len(before.shift), len(before.bias), "mixed", 2)
    got = run_driver([str(tmp_path / "train_steps")], tmp_path / "many", 0, steps, tmp_path / "steps.bin")
    expected = train_in_torch(before, steps)
    np.testing.assert_allclose(got.losses, expected.losses, rtol=TOLERANCE)
    assert np.abs(got.weight - expected.weight).max() <= TOLERANCE * np.abs(expected.weight).max()
