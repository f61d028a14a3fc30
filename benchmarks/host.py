"""A program's kernels and runtime, compiled for benchmarks that look inside; for this machine with gcc."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np

from perse_compile import manifest, targets
from perse_compile.building.emit_c import Backbone, emit
from perse_compile.building.link import RUNTIME
from perse_compile.building.object_code import compile_kernels
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.network import Network, lower
from perse_compile.program import Program
from perse_compile.targets import Target

TARGETS = {"x86_64": "x86_64-linux", "aarch64": "arm64-linux"}
LIBRARY = [str(path) for path in sorted(RUNTIME.glob("*.c"))]


def this_machine() -> Target:
    """The target that stands for it."""
    return targets.load(TARGETS[platform.machine()])


def write_artifact(program: Program, folder: Path, choices: Choices | None = None) -> Network:
    """backbone.bin, plan.c and kernels.o, without probes; for this machine and untuned unless told otherwise."""
    network = lower(program, choices or Choices(this_machine()))
    weights = [(offset, constant.array) for offset, constant in network.weights]
    identity, spec = manifest.heads_id(program), program.input
    probes = manifest.Probes(
        np.zeros((1, spec.height, spec.width, spec.channels), np.uint8),
        np.zeros((1, len(program.exits), len(program.classes)), np.float32),
    )
    pack = manifest.encode_pack(manifest.pack_of(program, identity))
    backbone = manifest.write_backbone(folder / manifest.BACKBONE, weights, network.weights_size, pack, probes)
    compile_kernels(network.kernels, network.target, folder / "kernels.o")
    (folder / "plan.c").write_text(emit(network, Backbone(backbone.size, backbone.crc32, identity)))
    return network


def compile_c(folder: Path, output: str, *arguments: str) -> None:
    """plan.c, kernels.o and the runtime with `arguments` to `output`."""
    compiler = ["gcc", "-O2", "-std=gnu11", f"-I{RUNTIME}", "-pthread", "-o", output]
    subprocess.run([*compiler, *arguments, "plan.c", *LIBRARY, "kernels.o", "-lm"], cwd=folder, check=True)
