"""A small network that knows its classes, images for it, and what tests do with built artifacts."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile import targets, trace
from perse_compile.devices import Device, LocalDevice, runs_here
from perse_compile.input_spec import input_spec
from perse_compile.passes import default_pipeline
from perse_compile.personalise.data import Images
from perse_compile.personalise.train_exits import train_exits
from perse_compile.pipeline import run
from perse_compile.program import Program

# Targets that tests build and run artifacts for: one of each instruction set, and two with code or names of their own.
BUILT_TARGETS = ("x86_64-linux", "arm64-linux", "arm64-android", "raspberry-pi-4", "armv7-linux")
NATIVE, ARM = BUILT_TARGETS[0], [pytest.param(name, marks=pytest.mark.arm) for name in BUILT_TARGETS[1:]]
EVERYWHERE = [NATIVE, *ARM]
SIZE, CLASSES = 32, ("red dots", "green", "blue", "stripes", "checks")
# What a command may change that changes heads; report.html and measured.json tell of it.
CHANGED = {"heads.pack", "heads.pack.previous", "measured.json", "report.html"}
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Tiny(nn.Module):
    """Four convolutions and a residual."""

    input_size = SIZE
    class_names = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.fc = nn.Linear(48, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.conv3(x) + x)
        x = F.relu(self.conv4(x))
        return self.fc(x.mean((2, 3)))


def pictures(count: int, seed: int, noise: float = 60.0) -> tuple[Pixels, Labels]:
    """Noisy pictures of five classes that a small network can tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    rng.shuffle(labels)
    y, x = np.mgrid[:SIZE, :SIZE]
    pictures = np.full((count, SIZE, SIZE, 3), 110.0)
    for i, label in enumerate(labels):
        if label < 3:
            pictures[i, :, :, label] += 50
        else:
            lines = (x + int(rng.integers(4))) // 4 % 2 if label == 3 else (x // 4 + y // 4 + int(rng.integers(2))) % 2
            pictures[i] += 60 * (lines - 0.5)[:, :, None]
    pictures += rng.normal(0, noise, pictures.shape)
    return np.clip(pictures, 0, 255).astype(np.uint8), labels.astype(np.int64)


def through_another_camera(pixels: Pixels) -> Pixels:
    """The same pictures in other colours, paler."""
    return (110 + 0.7 * (pixels[..., [1, 2, 0]].astype(float) - 110)).clip(0, 255).astype(np.uint8)


def tiny_network() -> Program:
    """The network, traced, trained for a few seconds; no pass has run."""
    torch.manual_seed(0)
    network = Tiny()
    pixels, labels = pictures(640, seed=1)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(4):
        for start in range(0, len(labels), 32):
            images = torch.from_numpy(pixels[start : start + 32]).permute(0, 3, 1, 2) / 255
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            loss = F.cross_entropy(network((images - mean) / std), torch.from_numpy(labels[start : start + 32]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    spec = input_spec(network, {"preset": None, "meta": None}, None)
    module = trace.trace(network.eval(), "tiny", spec)
    return Program("tiny", module, spec, list(CLASSES), provenance={"model": "tiny", "warnings": []})


def tiny_program() -> Program:
    """The network with two trained exits before the final one."""
    program = tiny_network()
    run(program, default_pipeline(("relu", "relu_2")))
    images = Images("pictures", *pictures(300, seed=2), list(CLASSES), [""] * 300)
    train_exits(program, images, epochs=10)
    return program


def required(what: str, path: str | None, hint: str) -> str:
    """The path; a test that needs it must not pass unnoticed without it where CI runs."""
    if path is not None:
        return path
    message = f"{what} is missing; {hint}"
    if os.environ.get("PERSE_REQUIRE_EMULATOR") == "1" or os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def emulator(target: str) -> str:
    """The emulator of a target."""
    name = targets.load(target).emulator
    return required(name, shutil.which(name), "apt-get install qemu-user-static")


def device_for(target: str) -> Device:
    """Where its executables run here."""
    machine = targets.load(target).machine
    return LocalDevice() if runs_here(machine) else LocalDevice("emulator", (emulator(target),), machine)


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()
    }


def elf(path: Path) -> dict[str, Any]:
    """Class (32 or 64), machine, and whether a program interpreter is asked for: what `file` looks at."""
    data = path.read_bytes()
    assert data[:4] == b"\x7fELF" and data[5] == 1
    wide = data[4] == 2
    machine = struct.unpack_from("<H", data, 18)[0]
    start = struct.unpack_from("<Q", data, 32)[0] if wide else struct.unpack_from("<I", data, 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    kinds = [struct.unpack_from("<I", data, start + i * size)[0] for i in range(count)]
    return {"bits": 64 if wide else 32, "machine": machine, "interpreter": 3 in kinds, "dynamic": 2 in kinds}
