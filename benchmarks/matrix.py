"""Networks through the whole path on several targets, each verified against PyTorch; ARM runs under the emulator.

    python benchmarks/matrix.py [MODEL ...] [--targets A,B] [--json]

By default the five networks of the first release on x86_64-linux and arm64-android, and one of them on armv7-linux.
Prints per build: time, size of the executable, greatest relative difference to PyTorch, stages run when forced.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from perse_compile import driver, targets
from perse_compile.building.build import build
from perse_compile.errors import PerseError
from perse_compile.program import Program

MODELS = ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]
TARGETS = ["x86_64-linux", "arm64-android"]
ALSO = [("mobilenet_v3_small", "armv7-linux")]


def one(program: Program, target: str, folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    row: dict[str, Any] = {"model": program.name, "target": target}
    try:
        built = build(program, targets.load(target), folder / f"{program.name}-{target}")
    except PerseError as error:
        return {**row, "ok": False, "error": str(error)}
    row["seconds"] = time.perf_counter() - start
    row["executable_bytes"] = built.artifact.manifest["files"]["perse"]["bytes"]
    row["verified_on"] = built.device
    row["ok"] = built.selftest is not None
    if built.selftest is not None:
        row["max_rel_diff"] = max(exit["max_rel_diff"] for exit in built.selftest["exits"])
        row["stages"] = [exit["stages"] for exit in built.selftest["exits"]]
    return row


def show(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['model']:20} {row['target']:14} FAILED: {row['error']}"
    checked = (
        "not verified"
        if not row["ok"]
        else f"{row['max_rel_diff']:.1e} on {row['verified_on']}, stages {row['stages']}"
    )
    size = row["executable_bytes"] / 1e3
    return f"{row['model']:20} {row['target']:14} {row['seconds']:6.1f} s {size:5.0f} KB  {checked}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--targets", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = options.targets.split(",") if options.targets else TARGETS
    pairs = [(model, target) for model in options.models or MODELS for target in chosen]
    pairs += [] if options.models or options.targets else ALSO
    rows, programs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for model, target in pairs:
            if model not in programs:
                programs = {model: driver.insert_exits(model, weights="none")}  # one at a time: they are large
            rows.append(one(programs[model], target, Path(folder)))
            if not options.json:
                print(show(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    if not all(row["ok"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
