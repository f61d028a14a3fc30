"""The loops in which an ARM network spends its instructions, and how many of these multiply and add.

    python benchmarks/loops.py [MODEL ...] [--target arm64-linux] [--top N] [--json]

`perse run` of one image to the last exit under the emulator, which prints what it translates and what it runs, as
benchmarks/instructions.py reads it: so often each instruction ran. A block is instructions one after the other, up to
a branch, that ran equally often; where the last of them branches back to the first it is an innermost loop. The linked
program's symbols say whose code it is; only kernels count. Prints Markdown: the blocks with the most executed
instructions, their share of all, and what one pass through each consists of (FMA: fmla, fmls, fmadd, fmsub; a load or
store of a pair of registers is one; prefetches are among the others).
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from host import write_artifact

from perse_compile import driver, targets
from perse_compile.building.link import link
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.network import Network

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


MODELS = ["resnet18", "resnet50", "mobilenet_v2"]
BRANCH = re.compile(r"(?:b|b\.\w+|bl|blr|br|ret|cbn?z|tbn?z)\b(?:.*#(0x[0-9a-f]+))?.*")
ADDRESS = re.compile(r"(adrp?|add)\s+(x\d+), (?:(x\d+), )?#(\w+)$")
KINDS = {"fma": ("fmla", "fmls", "fmadd", "fmsub"), "loads": ("ld",), "stores": ("st",)}
SYMBOLS = 2  # type of an ELF section


def symbols(path: Path) -> dict[int, str]:
    """Address -> name of everything in a 64-bit ELF file that has one."""
    data = path.read_bytes()
    start, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    sections = [struct.unpack_from("<IIQQQQI", data, start + 64 * i) for i in range(count)]
    _, _, _, _, offset, size, link_to = next(s for s in sections if s[1] == SYMBOLS)
    names, found = sections[link_to][4], {}
    for at in range(offset, offset + size, 24):
        name, value = struct.unpack_from("<I4xQ", data, at)
        text = data[names + name : data.index(b"\0", names + name)].decode()
        if value and text and not text.startswith("$"):  # $x, $d: where code and data begin
            found[value] = text
    return found


def make_program(network: Network, folder: Path) -> dict[int, str]:
    """`perse` with its symbols, which a build strips; returns them."""
    link(folder, network.target)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", network.target.zig, f"-mcpu={network.target.zig_cpu}"]
    objects = sorted(path.name for path in folder.glob("*.o"))
    command = [*compiler, "-O2", "-static", "-Wl,--gc-sections", *objects, "-lm", "-o", "perse"]
    subprocess.run(command, cwd=folder, check=True)
    return symbols(folder / "perse")


def ran(network: Network, folder: Path) -> tuple[dict[int, str], Counter[int]]:
    """Address -> instruction, and how often each ran."""
    spec, last = network.program.input, len(network.program.exits) - 1
    np.save(folder / "image.npy", np.full((spec.height, spec.width, spec.channels), 128, np.uint8))
    command = [network.target.emulator, "-d", "in_asm,exec,nochain", str(folder / "perse")]
    texts: dict[int, str] = {}
    times: Counter[int] = Counter()
    for block in blocks([*command, "run", str(folder / "image.npy"), "--exit", str(last)]):
        for line in block.lines:
            address, _, text = line.decode().split(None, 2)
            texts[int(address[:-1], 16)] = text.strip()
            times[int(address[:-1], 16)] += block.times
    return texts, times


def parallel_bodies(known: dict[int, str], texts: dict[int, str]) -> dict[int, str]:
    """Address -> kernel of functions without a symbol, whose address a kernel computes to hand it to the threads."""
    starts, pages, found = sorted(known), dict[str, int](), {}
    for address in sorted(texts):
        if address in known:
            pages.clear()
        match = ADDRESS.match(texts[address])
        if match is None:
            continue
        how, register, base, number = match.groups()
        value = int(number, 0)
        if how == "adrp":
            pages[register] = value
            continue
        target = value if how == "adr" else pages.get(base, 0) + value
        if target in texts and target not in known:
            found[target] = known[starts[bisect_right(starts, address) - 1]]
    return found


def cut(texts: dict[int, str], times: Counter[int], starts: set[int]) -> Iterator[list[int]]:
    """Addresses of each block; a function in `starts` begins a new one."""
    block: list[int] = []
    for address in sorted(texts):
        if block and (
            address != block[-1] + 4
            or times[address] != times[block[-1]]
            or address in starts
            or BRANCH.fullmatch(texts[block[-1]])
        ):
            yield block
            block = []
        block.append(address)
    yield block


def describe(block: list[int], texts: dict[int, str], times: Counter[int]) -> dict[str, Any]:
    words = [texts[address] for address in block]
    counts = {kind: sum(word.startswith(begin) for word in words) for kind, begin in KINDS.items()}
    branch = BRANCH.fullmatch(words[-1])
    return {
        "loop": bool(branch and branch[1] and int(branch[1], 16) == block[0]),
        "times": times[block[0]],
        "executed": times[block[0]] * len(block),
        "instructions": len(block),
        **counts,
        "other": len(block) - sum(counts.values()),
    }


def measure(name: str, target_name: str, folder: Path) -> dict[str, Any]:
    """Every block of every kernel, most executed first."""
    network = write_artifact(driver.insert_exits(name, weights="none"), folder, Choices(targets.load(target_name)))
    known = make_program(network, folder)
    texts, times = ran(network, folder)
    known = sorted({**parallel_bodies(known, texts), **known}.items())
    starts = [address for address, _ in known]
    rows = []
    for block in cut(texts, times, set(starts)):
        kernel = known[bisect_right(starts, block[0]) - 1][1]
        if kernel not in network.kernels:
            continue
        what = (network.kernels[kernel].attrs or {}).get("what", "")
        row = {"kernel": kernel.removeprefix("perse_k_"), "what": str(what), **describe(block, texts, times)}
        rows.append(row)
    rows.sort(key=lambda row: -row["executed"])
    return {"model": name, "target": target_name, "macs": network.program.exits[-1].macs, "blocks": rows}


def table(result: dict[str, Any], top: int) -> str:
    blocks, total = result["blocks"], sum(row["executed"] for row in result["blocks"])
    fma = sum(row["executed"] * row["fma"] / row["instructions"] for row in blocks)
    shown = sum(row["executed"] for row in blocks[:top])
    of, least = f"{result['model']}, {result['target']}", min(top, len(blocks))
    lines = [
        f"{of}: {total / 1e6:.0f} million instructions in kernels, {100 * fma / total:.1f} % of them FMA;"
        f" the {least} blocks below are {100 * shown / total:.1f} %.",
        "",
        "| kernel | what | share | instructions | FMA | loads | stores | other | FMA share |",
        "|---" * 9 + "|",
    ]
    for row in blocks[:top]:
        counts = " | ".join(str(row[key]) for key in ("instructions", "fma", "loads", "stores", "other"))
        shares = f"{100 * row['executed'] / total:.1f} %", f"{100 * row['fma'] / row['instructions']:.0f} %"
        what = row["what"] + ("" if row["loop"] else " (no innermost loop)")
        lines.append(f"| {row['kernel']} | {what} | {shares[0]} | {counts} | {shares[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", default="arm64-linux", help="one with a 64-bit ARM machine")
    parser.add_argument("--top", type=int, default=10, help="blocks to print of each network")
    parser.add_argument("--json", action="store_true", help="all blocks")
    options = parser.parse_args()
    if targets.load(options.target).machine != "aarch64":
        raise SystemExit(f"{options.target} is not a 64-bit ARM target; `perse-compile targets` lists them")
    results = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, options.target, Path(folder)))
        if not options.json:
            print(table(results[-1], options.top), flush=True)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
