"""An artifact's compiled training step beside PyTorch's, on the same batches.

`tests/c/train_steps.c`, linked with the artifact's library, runs batches that this writes; PyTorch's autograd and SGD
run them too. Used by tests/test_trainer_against_torch.py and by coverage.py.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from perse_compile import manifest
from perse_compile.targets import Target

BATCH = 32
PADDING = 11  # rows of every fifth batch that are none, as in the last batch of an epoch
SOURCE = Path(__file__).parents[1] / "tests" / "c" / "train_steps.c"
KINDS = {"hard": 1.0, "soft": 0.0, "mixed": 0.7}  # share of the label in the loss
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """One batch; rows at the end may be padding."""

    knobs: tuple[float, float, float, float]  # 1/T, learning rate, momentum, decay
    features: Floats
    hard: Floats
    soft: Floats


@dataclass(frozen=True)
class Trained:
    """What the steps left: the loss of each, and the head."""

    losses: list[float]
    weight: Floats
    bias: Floats


def make_steps(features: int, classes: int, kind: str, count: int) -> list[Step]:
    rng = np.random.default_rng(7)
    steps = []
    for number in range(count):
        rows = BATCH if number % 5 else BATCH - PADDING
        x = rng.normal(0.3, 1.5, (BATCH, features)).astype(np.float32)
        one_hot = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, BATCH)]
        teacher = rng.dirichlet(np.ones(classes), BATCH).astype(np.float32)
        weight = rng.uniform(0, 1, (BATCH, 1)).astype(np.float32)
        share = KINDS[kind]
        hard, soft = share * one_hot / rows, (1 - share) * 4 * weight * teacher / rows
        hard[rows:], soft[rows:] = 0, 0
        knobs = (0.5, 0.05 * (1 - number / count), 0.9, 0.01)
        steps.append(Step(knobs, x, hard.astype(np.float32), soft.astype(np.float32)))
    return steps


def compile_driver(artifact: Path, target: Target, executable: Path) -> None:
    """The C program that runs steps with this artifact's library."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, f"-mcpu={target.zig_cpu}"]
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-static", "-pthread"]
    library = [f"-I{artifact}", str(SOURCE), str(artifact / "libperse.a"), "-lm", "-o", str(executable)]
    subprocess.run([*compiler, *strict, *library], check=True, capture_output=True, text=True)


def run_driver(command: list[str], artifact: Path, exit: int, steps: list[Step], scratch: Path) -> Trained:
    """`command` starts the driver; afterwards the artifact's heads.pack holds what was learnt."""
    write_steps(scratch, steps)
    words = [*command, str(artifact), str(exit), str(scratch)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    head = manifest.read_pack(artifact / manifest.PACK).exits[exit]
    return Trained([float(line) for line in output.split()], head.weight, head.bias)


def write_steps(path: Path, steps: list[Step]) -> None:
    arrays = [(np.float32(s.knobs), s.features, s.hard, s.soft) for s in steps]
    body = b"".join(np.asarray(a).astype("<f4").tobytes() for group in arrays for a in group)
    path.write_bytes(struct.pack("<I", len(steps)) + body)


def train_in_torch(head: manifest.PackedExit, steps: list[Step]) -> Trained:
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
    return Trained(losses, weight.detach().numpy(), bias.detach().numpy())
