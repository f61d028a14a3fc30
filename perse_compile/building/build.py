"""A program and a target in, a verified artifact out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perse_compile import __version__, devices, manifest
from perse_compile.artifact import Artifact, open_artifact
from perse_compile.building.emit_c import Backbone, emit
from perse_compile.building.link import RUNTIME, library_is_for, link
from perse_compile.building.object_code import compile_kernels
from perse_compile.errors import ArtifactError, BuildError
from perse_compile.lowering.choices import Choices, Remembered, nothing
from perse_compile.lowering.network import Network, lower
from perse_compile.macs import head_macs
from perse_compile.passes.head_types import head_facts
from perse_compile.program import InputSpec, Program
from perse_compile.report.layers import layers
from perse_compile.report.layers_file import LAYERS, encode_layers
from perse_compile.targets import Target

PROBES = 2
TOLERANCE = 1e-3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A finished artifact and what verifying it said; `selftest` is None where nothing here can run it."""

    artifact: Artifact
    device: str | None
    selftest: dict[str, Any] | None


def build(
    program: Program,
    target: Target,
    folder: Path,
    *,
    remembered: Remembered = nothing,
    force: bool = False,
    say: Say = lambda _: None,
) -> Built:
    """Compile, link, write `folder` in one step, verify. The old artifact stays until the new one is complete.

    `remembered` gives the knobs that tuning found; the same program, target and knobs make the same bytes.
    Raises LoweringError, BuildError (also when verification fails) or TargetError.
    """
    _check_destination(folder, force)
    library_is_for(target)  # a wrong ANDROID_NDK_HOME is told before the work
    say("lowering")
    network = lower(program, Choices(target, remembered))
    say("computing probe answers in PyTorch")
    probes = _probes(program)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.building-", dir=folder.parent) as scratch:
            work, fresh = Path(scratch) / "work", Path(scratch) / "artifact"
            work.mkdir()
            fresh.mkdir()
            _write_files(network, probes, work, fresh, say)
            verified = _verify(fresh, target, say)
            _swap(fresh, folder, Path(scratch))
    except OSError as error:
        raise BuildError(
            f"cannot write the artifact {folder}: {error.strerror}; the old one, if any, is as it was"
        ) from error
    return Built(open_artifact(folder), *verified)


def _check_destination(folder: Path, force: bool) -> None:
    if not folder.parent.is_dir():
        raise BuildError(
            f"no folder {folder.parent} to write {folder.name} to; make it, or choose another place with -o"
        )
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / manifest.MANIFEST).exists()):
        raise BuildError(f"{folder} is there and is not an artifact; choose another place with -o")
    if force:
        return
    try:
        generation = manifest.read_pack(folder / manifest.PACK).generation
    except ArtifactError:
        return  # nothing worth keeping
    if generation > 0:
        raise BuildError(
            f"{folder} holds heads personalised {generation} times, which building would discard; use -o, or --force"
        )


def _probes(program: Program) -> manifest.Probes:
    """Images, and every exit's logits for them in PyTorch."""
    images = probe_images(program.input)
    return manifest.Probes(images, reference_logits(program, images))


def probe_images(spec: InputSpec) -> NDArray[np.uint8]:
    """Deterministic ones of smooth colour and noise, (N,H,W,C)."""
    rng, images = np.random.default_rng(0), []
    for _ in range(PROBES):
        coarse = rng.uniform(0, 255, (4, 4, spec.channels))
        grown = torch.nn.functional.interpolate(
            torch.from_numpy(coarse).permute(2, 0, 1)[None], (spec.height, spec.width), mode="bilinear"
        )[0]
        smooth = grown.permute(1, 2, 0).numpy()
        images.append(np.clip(smooth + rng.normal(0, 16, smooth.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


def reference_logits(program: Program, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """PyTorch's answer: uint8 (N,H,W,C) -> float32 (N, exits, K)."""
    answers = []
    with torch.inference_mode():
        for image in images:
            pixels = normalised(image[None], program.input)
            answers.append(torch.stack([logits[0] for logits in program.module(pixels)]))
    return torch.stack(answers).numpy()


def normalised(images: NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """As PyTorch wants them: uint8 (N,H,W,C) -> float32 (N,C,H,W)."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return ((pixels / 255 - mean) / std).clone(memory_format=torch.contiguous_format)  # for whoever uses view


def _write_files(network: Network, probes: manifest.Probes, work: Path, fresh: Path, say: Say) -> None:
    program, target = network.program, network.target
    identity = manifest.heads_id(program)
    pack = manifest.encode_pack(manifest.pack_of(program, identity))
    weights = [(offset, constant.array) for offset, constant in network.weights]
    backbone = manifest.write_backbone(fresh / manifest.BACKBONE, weights, network.weights_size, pack, probes)
    (fresh / manifest.PACK).write_bytes(pack)
    say(f"compiling {len(network.kernels)} kernels")
    compile_kernels(network.kernels, target, work / "kernels.o")
    (work / "plan.c").write_text(emit(network, Backbone(backbone.size, backbone.crc32, identity)))
    say("compiling the runtime and linking")
    link(work, target)
    for name in ("perse", "libperse.a"):
        shutil.copyfile(work / name, fresh / name)
    shutil.copyfile(RUNTIME / "perse.h", fresh / "perse.h")
    shutil.copyfile(work / "plan.c", fresh / "plan.c")
    (fresh / LAYERS).write_bytes(encode_layers(layers(program)))
    (fresh / "perse").chmod(0o755)
    (fresh / manifest.MANIFEST).write_bytes(manifest.encode_manifest(_manifest(network, identity, fresh)))


def _manifest(network: Network, identity: int, fresh: Path) -> dict[str, Any]:
    program, target = network.program, network.target
    names = (manifest.BACKBONE, "perse", "libperse.a", "perse.h", "plan.c", LAYERS)
    files = {name: manifest.facts_of(fresh / name) for name in names}
    exits = [
        {
            "name": e.name,
            "tap": e.tap,
            "features": e.features,
            "grid": e.grid,
            "macs": e.macs,
            "head_macs": head_macs(program, e.name),
            **head_facts(e, program.outputs),
        }
        for e in program.exits
    ]
    return {
        "program": program.name,
        "target": asdict(target),
        "library_for": library_is_for(target),
        "versions": {
            "perse-compile": __version__,
            **{name: version(name) for name in ("apache-tvm", "torch", "ziglang")},
        },
        "tuning": network.choices.summary(),
        "input": asdict(program.input),
        "classes": list(program.classes),
        "spare_classes": program.spare,
        "exits": exits,
        "arena_bytes": network.arena,
        "live_bytes": network.live,
        "kernels": len(network.kernels),
        "heads_id": identity,
        "levels": program.levels,
        "provenance": program.provenance,
        "files": files,
    }


def _verify(fresh: Path, target: Target, say: Say) -> tuple[str | None, dict[str, Any] | None]:
    """The executable's own self-test, here or under the emulator."""
    device = devices.any_device(target.machine, target.emulator)
    if device is None:
        return None, None
    say("verifying every exit against PyTorch" + (" under the emulator" if device.name == "emulator" else ""))
    threads = str(min(4, os.cpu_count() or 1))
    fewer = ["--quick"] if device.name == "emulator" else []  # an emulated network takes its time
    result = open_artifact(fresh).call(device, ["selftest", "--threads", threads, *fewer])
    if result["exit_status"] != 0:
        worst = max((e["max_rel_diff"] for e in result["exits"]), default=float("inf"))
        raise BuildError(
            f"the compiled network differs from PyTorch (greatest relative difference {worst:.2g}); nothing was written"
        )
    return device.name, result


def _swap(fresh: Path, folder: Path, scratch: Path) -> None:
    if folder.exists():
        folder.rename(scratch / "old")
    try:
        fresh.rename(folder)
    except OSError:
        if (scratch / "old").exists():
            (scratch / "old").rename(folder)
        raise
