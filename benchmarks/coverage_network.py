"""One network through the whole path; run by coverage.py, in a process of its own for every network.

    python benchmarks/coverage_network.py NAME FOLDER

Prints a line of JSON when a column is begun and one when it is finished: {"column": "host", "ok": true, "seconds": 20}.
What it builds is written to FOLDER, which whoever calls it deletes. Exit status 1 when a column failed: those after it
are not tried.
"""

from __future__ import annotations

import gc
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from train_steps import compile_driver, make_steps, run_driver, train_in_torch

from perse_compile import devices, manifest, targets
from perse_compile.building.build import build, normalised, probe_images
from perse_compile.errors import PerseError
from perse_compile.passes import default_pipeline
from perse_compile.pipeline import run
from perse_compile.program import InputSpec, Program
from perse_compile.same_function import SameFunction, noise
from perse_compile.targets import Target
from perse_compile.trace import trace_model

HOST, ARM = "x86_64-linux", "arm64-android"
EXITS = 3  # beside the final one
STEPS = 3
MOST_EMULATED = 10e9  # multiply-accumulates; the emulator does about 0.1e9 a second. Greater networks: smaller images
TRAINING_TOLERANCE = 1e-4  # relative: of the loss, and of the largest weight
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm)
LAYER_SCALES = (0.2, 0.6)  # of convnext, which begin at a millionth: its blocks would hardly count


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)  # others work here too; threads that wait for each other then wait long
    kept: dict[str, Program] = {}
    path = folder / f"{name}.perse"
    with column("trace") as note:
        kept[name] = traced(name, note)
    with column("exits") as note:
        kept[name] = with_exits(kept.pop(name), path, note)
    for title, target in (("host", targets.load(HOST)), ("arm64", targets.load(ARM))):
        with column(title) as note:
            if title == "arm64" and small_enough(kept[name]) != sides(kept[name]):
                kept[name] = with_exits(traced(name, {}, small_enough(kept.pop(name))), path, {})
            note["input"] = [kept[name].input.channels, *sides(kept[name])]
            built(kept[name], target, folder / target.name, note)
        with column("train" if title == "host" else "train_arm64") as note:
            trained(folder / target.name, target, note)
        shutil.rmtree(folder / target.name)
    path.unlink()


def sides(program: Program) -> tuple[int, int]:
    return program.input.height, program.input.width


def small_enough(program: Program) -> tuple[int, int]:
    """Height and width at which the network is small enough for the emulator; work goes with their product."""
    (height, width), macs = sides(program), float(program.exits[-1].macs)
    while macs > MOST_EMULATED:
        height, width, macs = height // 2, width // 2, macs / 4
    return height, width


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


@contextmanager
def column(title: str) -> Iterator[dict[str, Any]]:
    """What is noted is told together with the time it took; the first failure is told and ends it all."""
    tell(begun=title)
    facts: dict[str, Any] = {}
    start = time.perf_counter()
    try:
        yield facts
        facts["ok"] = True
    except (PerseError, Mismatch) as error:
        facts |= {"ok": False, "error": str(error)}
    except subprocess.CalledProcessError as error:
        facts |= {"ok": False, "error": f"{error.cmd[0]}: {(error.stderr or '').strip().splitlines()[-1:]}"}
    except MemoryError:
        facts |= {"ok": False, "error": "not enough memory"}
    except Exception as error:  # a bug of ours, to be told like any other failure
        facts |= {"ok": False, "error": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    tell(column=title, seconds=round(time.perf_counter() - start, 2), peak_bytes=peak, **facts)
    if not facts["ok"]:
        raise SystemExit(1)


class Mismatch(Exception):
    """Ours and PyTorch's differ, or the network was not as expected."""


# --- trace and exits --------------------------------------------------------------------------------------


def traced(name: str, note: dict[str, Any], size: tuple[int, int] | None = None) -> Program:
    program = trace_model(name, input_size=size)
    note["weights"] = program.provenance["weights"]["source"]
    if note["weights"] == "random":
        enliven(program.module, program.input)
    note["input"] = [program.input.channels, program.input.height, program.input.width]
    note["weight_bytes"] = sum(t.numel() * t.element_size() for t in program.tensors().values())
    return program


def enliven(module: fx.GraphModule, spec: InputSpec) -> None:
    """Random weights such that every layer shows in the answer.

    Those that a new network has do not: without training the scale of the numbers grows or shrinks from layer to layer
    until some vanish beside others, or rounding is all that is left. Every batch norm takes the statistics of what it
    sees of the images that passes and builds are verified with; scales and shifts of norms, and biases that are zero,
    become random.
    """
    generator = torch.Generator().manual_seed(1)

    def random(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, NORMS):
                random(layer.weight, 0.7, 1.3), random(layer.bias, -0.3, 0.3)
            elif isinstance(getattr(layer, "bias", None), torch.Tensor) and not layer.bias.any():
                random(layer.bias, -0.1, 0.1)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train()
                layer.momentum = 1.0
        for parameter_name, parameter in module.named_parameters():
            if parameter_name.endswith("layer_scale"):
                random(parameter, *LAYER_SCALES)
        module(torch.cat([normalised(probe_images(spec), spec), noise(spec)]))
        module.eval()


def with_exits(program: Program, path: Path, note: dict[str, Any]) -> Program:
    """Through all passes, into a file, and out of it again."""
    run(program, default_pipeline(EXITS), [SameFunction()])
    program.save(path)
    del program
    gc.collect()  # graphs and their modules know each other; the weights of the greatest are 2.6 GB
    loaded = Program.load(path)
    note |= {"nodes": len(loaded.module.graph.nodes), "cuts": len(loaded.cuts), "macs": loaded.exits[-1].macs}
    note["exits"] = [{"tap": exit.tap, "macs": exit.macs} for exit in loaded.exits]
    note["program_bytes"] = path.stat().st_size
    return loaded


# --- building and training --------------------------------------------------------------------------------


def built(program: Program, target: Target, folder: Path, note: dict[str, Any]) -> None:
    verifying = [0.0]

    def say(what: str) -> None:
        if what.startswith("verifying"):
            verifying[0] = time.perf_counter()

    result = build(program, target, folder, say=say)
    note["verify_seconds"] = round(time.perf_counter() - verifying[0], 2)
    if result.selftest is None:
        raise Mismatch(f"nothing here runs {target.name}; `perse-compile doctor` says what is missing")
    files = result.artifact.manifest["files"]
    note |= {"executable_bytes": files["perse"]["bytes"], "backbone_bytes": files["backbone.bin"]["bytes"]}
    note |= {"arena_bytes": result.artifact.manifest["arena_bytes"], "kernels": result.artifact.manifest["kernels"]}
    note["verified_on"] = result.device
    note["differences"] = {exit["name"]: exit["max_rel_diff"] for exit in result.selftest["exits"]}


def trained(folder: Path, target: Target, note: dict[str, Any]) -> None:
    """A few steps of every head, by the artifact and by PyTorch."""
    executable = folder.with_name(f"{folder.name}-train-steps")
    compile_driver(folder, target, executable)
    device = devices.any_device(target.machine, target.emulator)
    assert isinstance(device, devices.LocalDevice)  # else building would have failed
    differences = {}
    names = [exit["name"] for exit in manifest.read_manifest(folder)["exits"]]
    heads = manifest.read_pack(folder / manifest.PACK).exits
    for index, (name, head) in enumerate(zip(names, heads, strict=True)):
        steps = make_steps(len(head.shift), len(head.bias), "mixed", STEPS)
        got = run_driver([*device.prefix, str(executable)], folder, index, steps, folder.with_name("steps.bin"))
        want = train_in_torch(head, steps)
        if not np.abs(want.weight - head.weight).max() > 0:
            raise Mismatch(f"{name} learnt nothing")
        differences[name] = max(
            relative(np.array(got.losses), np.array(want.losses)),
            relative(got.weight, want.weight),
            relative(got.bias, want.bias),
        )
    note["differences"] = differences
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= TRAINING_TOLERANCE:
        raise Mismatch(f"training {worst} differs from PyTorch by {differences[worst]:.2g}")


def relative(got: Any, want: Any) -> float:
    """Greatest difference, of the greatest number."""
    return float(np.abs(got - want).max() / np.abs(want).max())


if __name__ == "__main__":
    main()
