"""Instructions that an ARM network executes per multiply-accumulate, counted under emulation.

    python benchmarks/instructions.py [MODEL ...] [--target arm64-linux] [--json]

The emulator translates a program block by block. Asked to, it prints every block it translates with the block's
instructions (`-d in_asm`) and every block it runs (`-d exec,nochain`): the sum of the lengths of the blocks it ran is
the number of instructions executed. `perse run` of one image, to the last exit, less `perse info`, which only opens
and checks the artifact: input, kernels, the last exit's head and decision.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perse_compile import driver, targets
from perse_compile.building import build as building

BLOCK = re.compile(rb"^0x([0-9a-f]+):")
RUN = re.compile(rb"^Trace \d+: 0x[0-9a-f]+ \[[0-9a-f]+/([0-9a-f]+)/")


@dataclass
class Block:
    """Instructions that the emulator translated as one piece, as it prints them, and how often it ran them."""

    lines: list[bytes] = field(default_factory=list)
    times: int = 0


def blocks(command: list[str]) -> list[Block]:
    """What the command executes under the emulator."""
    at: dict[int, Block] = {}  # the last translation of each address
    found: list[Block] = []
    inside = False
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"Trace"):
                inside = False
                match = RUN.match(line)
                assert match, line
                at[int(match[1], 16)].times += 1
            elif match := BLOCK.match(line):
                if not inside:
                    inside = True
                    at[int(match[1], 16)] = Block()
                    found.append(at[int(match[1], 16)])
                found[-1].lines.append(line)
            else:
                inside = False
    if process.returncode != 0:
        raise SystemExit(f"{command[-1]} ended with status {process.returncode}")
    return found


def count(command: list[str]) -> int:
    """Instructions that the command executes under the emulator."""
    return sum(len(block.lines) * block.times for block in blocks(command))


def measure(name: str, target_name: str, folder: Path) -> dict[str, Any]:
    program = driver.insert_exits(name, weights="none")
    target = targets.load(target_name)
    building.build(program, target, folder / name)
    spec, image = program.input, folder / "image.npy"
    np.save(image, np.full((spec.height, spec.width, spec.channels), 128, np.uint8))
    perse = [target.emulator, "-d", "in_asm,exec,nochain", str(folder / name / "perse")]
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
