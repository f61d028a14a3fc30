"""Instructions that an ARM network executes per multiply-accumulate, counted under emulation.

    python benchmarks/instructions.py [MODEL ...] [--target arm64-linux] [--json]
    python benchmarks/instructions.py resnet50 --tune emulator --trials 500
    python benchmarks/instructions.py resnet50 --tune model

How they are counted: perse_compile/tuning/instructions.py. `perse run` of one image, to the last exit, less
`perse info`, which only opens and checks the artifact: input, kernels, the last exit's head and decision.

--tune: the same network is built once more with knobs that were ranked without a device, by instructions of the kernels
alone or by arithmetic, and both are counted stage by stage, each with the head behind it, in a run that no exit ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from perse_compile import driver, targets
from perse_compile.building import build as building
from perse_compile.building.link import PROGRAM, RUNTIME, compile_c, zig
from perse_compile.lowering.choices import nothing
from perse_compile.program import Program
from perse_compile.targets import Target
from perse_compile.tuning.database import open_database
from perse_compile.tuning.instructions import count, count_by_function


def picture(program: Program, folder: Path) -> Path:
    spec = program.input
    np.save(folder / "image.npy", np.full((spec.height, spec.width, spec.channels), 128, np.uint8))
    return folder / "image.npy"


def measure(name: str, target_name: str, folder: Path) -> dict[str, Any]:
    program = driver.insert_exits(name, weights="none")
    target = targets.load(target_name)
    building.build(program, target, folder / name)
    image = picture(program, folder)
    perse = [target.emulator, str(folder / name / "perse")]
    executed = count([*perse, "run", str(image), "--exit", str(len(program.exits) - 1)]) - count([*perse, "info"])
    macs = program.exits[-1].macs
    return {
        "model": name,
        "target": target_name,
        "instructions": executed,
        "macs": macs,
        "per_mac": executed / macs,
    }


def show_whole(r: dict[str, Any]) -> None:
    print(f"{r['model']}, {r['target']}: {r['per_mac']:.3f} instructions per multiply-accumulate", flush=True)


# --- before and after tuning ------------------------------------------------------------------------------


def compare(name: str, target_name: str, how: str, trials: int | None, folder: Path) -> dict[str, Any]:
    """Every stage with default knobs, and with those that `tune --device HOW` finds."""
    target, path = targets.load(target_name), folder / f"{name}.perse"
    program = driver.insert_exits(name, weights="none", output=path)
    found = driver.tune(
        path, target_name, device=how, trials=trials, database=folder / "t.jsonl",
        follow=lambda told, what: print(f"\r{told['trials']} candidates: {what:60.60}", end="", file=sys.stderr),
    )  # fmt: skip
    print(file=sys.stderr)
    ways = {"before": nothing, "after": open_database(folder / "t.jsonl", None).remembered(target)}
    stages: dict[str, dict[str, int]] = {exit.name: {} for exit in program.exits}
    for way, remembered in ways.items():
        building.build(program, target, folder / way, remembered=remembered)
        perse = with_symbols(folder / way, target, folder / f"objects-{way}")
        for stage, executed in by_stage(program, target, perse, picture(program, folder)).items():
            stages[stage][way] = executed
    return {"model": name, "target": target_name, "tuned_by": how, "trials": found["trials"], "stages": stages}


def with_symbols(artifact: Path, target: Target, work: Path) -> Path:
    """The artifact's executable once more, from its library, with the names of its functions."""
    work.mkdir()
    sources = sorted(map(str, PROGRAM.glob("*.c")))
    objects = compile_c(work, sources, [*zig(target), f"-I{RUNTIME}"])
    command = [*zig(target), "-O2", "-static", *objects, str(artifact.resolve() / "libperse.a"), "-lm", "-o"]
    subprocess.run([*command, str(artifact.resolve() / "perse-with-symbols")], cwd=work, check=True)
    return artifact / "perse-with-symbols"


def by_stage(program: Program, target: Target, perse: Path, image: Path) -> dict[str, int]:
    """From the begin of each stage to that of the next; untrained exits are not confident, so every stage runs."""
    stages = {f"stage_{exit.name}": exit.name for exit in program.exits}
    executed = count_by_function([target.emulator, str(perse), "run", str(image)], stages)
    assert all(executed[function] for function in stages), f"not every stage ran, or {perse} shows no functions"
    return {name: executed[function] for function, name in stages.items()}


def show(found: dict[str, Any]) -> None:
    print(f"{found['model']}, {found['target']}, {found['trials']} candidates, ranked by {found['tuned_by']}")
    for name, counts in found["stages"].items():
        before, after = counts["before"], counts["after"]
        print(f"{name:6} {before / 1e6:9.2f} M instructions, tuned {after / 1e6:9.2f} M: {after / before - 1:+.2%}")


# --- the command ------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet18", "mobilenet_v2", "resnet50"])
    parser.add_argument("--target", default="arm64-linux")
    parser.add_argument("--tune", choices=["emulator", "model"])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for model in options.models:
            (folder / model).mkdir()
            if options.tune:
                results.append(compare(model, options.target, options.tune, options.trials, folder / model))
            else:
                results.append(measure(model, options.target, folder / model))
            if not options.json:
                show(results[-1]) if options.tune else show_whole(results[-1])
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
