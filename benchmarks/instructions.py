"""Instructions that an ARM network executes per multiply-accumulate, counted under emulation.

    python benchmarks/instructions.py [MODEL ...] [--target arm64-linux] [--json]

How they are counted: perse_compile/tuning/instructions.py. `perse run` of one image, to the last exit, less
`perse info`, which only opens and checks the artifact: input, kernels, the last exit's head and decision.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from perse_compile import driver, targets
from perse_compile.building import build as building
from perse_compile.tuning.instructions import count


def measure(name: str, target_name: str, folder: Path) -> dict[str, Any]:
    program = driver.insert_exits(name, weights="none")
    target = targets.load(target_name)
    building.build(program, target, folder / name)
    spec, image = program.input, folder / "image.npy"
    np.save(image, np.full((spec.height, spec.width, spec.channels), 128, np.uint8))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet18", "mobilenet_v2", "resnet50"])
    parser.add_argument("--target", default="arm64-linux")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            results.append(measure(name, options.target, Path(folder)))
            r = results[-1]
            if not options.json:
                print(
                    f"{r['model']}, {r['target']}: {r['per_mac']:.3f} instructions per multiply-accumulate", flush=True
                )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
