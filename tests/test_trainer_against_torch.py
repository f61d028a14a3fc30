"""The compiled training step against PyTorch: same data, order and seed, 20 steps, every exit, every kind of target."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perse_compile import manifest, targets
from perse_compile.building.build import build
from perse_compile.program import Program

from .artifacts import device_for, tiny_program

STEPS, BATCH = 20, 32
TOLERANCE = 1e-4  # relative: of the loss, and of the largest weight
MACHINES = ["x86_64-linux", *(pytest.param(name, marks=pytest.mark.arm) for name in ("arm64-android", "armv7-linux"))]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """One batch; rows at the end may be padding, as in the last batch of an epoch."""

    knobs: tuple[float, float, float, float]  # 1/T, learning rate, momentum, decay
    features: Floats
    hard: Floats
    soft: Floats


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
    source, executable = Path(__file__).parent / "c" / "train_steps.c", folder.parent / "train_steps"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, f"-mcpu={target.zig_cpu}"]
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-static", "-pthread"]
    library = [f"-I{folder}", str(source), str(folder / "libperse.a"), "-lm", "-o", str(executable)]
    subprocess.run([*compiler, *strict, *library], check=True)
    return target.name, folder, executable


def make_steps(features: int, classes: int, kind: str) -> list[Step]:
    rng = np.random.default_rng(7)
    steps = []
    for number in range(STEPS):
        rows = BATCH if number % 5 else BATCH - 11
        x = rng.normal(0.3, 1.5, (BATCH, features)).astype(np.float32)
        one_hot = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, BATCH)]
        teacher = rng.dirichlet(np.ones(classes), BATCH).astype(np.float32)
        weight = rng.uniform(0, 1, (BATCH, 1)).astype(np.float32)
        label_share = {"hard": 1.0, "soft": 0.0, "mixed": 0.7}[kind]
        hard, soft = label_share * one_hot / rows, (1 - label_share) * 4 * weight * teacher / rows
        hard[rows:], soft[rows:] = 0, 0
        knobs = (0.5, 0.05 * (1 - number / STEPS), 0.9, 0.01)
        steps.append(Step(knobs, x, hard.astype(np.float32), soft.astype(np.float32)))
    return steps


def write_steps(path: Path, steps: list[Step]) -> None:
    arrays = [(np.float32(s.knobs), s.features, s.hard, s.soft) for s in steps]
    path.write_bytes(
        struct.pack("<I", len(steps)) + b"".join(a.astype("<f4").tobytes() for group in arrays for a in group)
    )


def train_in_torch(head: manifest.PackedExit, steps: list[Step]) -> tuple[list[float], Floats, Floats]:
    """The loss of plan.h's perse_step, torch's autograd and torch's SGD."""
    shift, scale = torch.from_numpy(head.shift), torch.from_numpy(head.scale)
    weight, bias = (torch.from_numpy(t.copy()).requires_grad_() for t in (head.weight, head.bias))
    anchors = weight.detach().clone(), bias.detach().clone()
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=0.9)
    losses = []
    for step in steps:
        inverse_temperature, rate, _, decay = step.knobs
        optimizer.param_groups[0]["lr"] = rate
        z = ((torch.from_numpy(step.features) - shift) * scale) @ weight + bias
        loss = -(torch.from_numpy(step.hard) * torch.log_softmax(z, 1)).sum()
        loss = loss - (torch.from_numpy(step.soft) * torch.log_softmax(z * inverse_temperature, 1)).sum()
        loss = loss + decay / 2 * (((weight - anchors[0]) ** 2).sum() + ((bias - anchors[1]) ** 2).sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, weight.detach().numpy(), bias.detach().numpy()


@pytest.mark.parametrize("kind", ["hard", "soft", "mixed"])
@pytest.mark.parametrize("exit", [0, 1, 2])
def test_twenty_steps(trainer: tuple[str, Path, Path], exit: int, kind: str, tmp_path: Path) -> None:
    target, folder, executable = trainer
    factory = (folder / "factory.pack").read_bytes()
    (folder / manifest.PACK).write_bytes(factory)
    before = manifest.read_pack(folder / manifest.PACK).exits
    classes = len(before[exit].bias)
    steps = make_steps(len(before[exit].shift), classes, kind)
    write_steps(tmp_path / "steps.bin", steps)
    command = [*device_for(target).prefix, str(executable), str(folder), str(exit), str(tmp_path / "steps.bin")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    losses = [float(line) for line in output.split()]
    expected, weight, bias = train_in_torch(before[exit], steps)
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)
    after = manifest.read_pack(folder / manifest.PACK).exits
    for got, want, start in (
        (after[exit].weight, weight, before[exit].weight),
        (after[exit].bias, bias, before[exit].bias),
    ):
        assert np.abs(want - start).max() > 1e-3  # it did learn something
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    for other in set(range(len(before))) - {exit}:
        np.testing.assert_array_equal(after[other].weight, before[other].weight)
