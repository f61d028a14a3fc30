"""What an early exit costs: forced runs against the share of the network they skip, and the heads by themselves.

    python benchmarks/exits.py [MODEL ...] [--threads 1 2] [--rounds N] [--lock FILE] [--json]

Each round times one walk through everything (`perse_profile_u8`: every stage, and every exit's pooling, head and
decision) and one inference forced to each exit (`perse_run_u8`), taking turns; figures are medians over the rounds.
  cost    time of the forced inference / that of the full network (forced to the last exit)
  share   time of the stages up to the exit / that of all stages, and beside it the same by multiply-accumulates
  beyond  cost - share by time, in hundredths of the full network's time: bound 3
  head    the exit's pooling, head and decision, in hundredths of the full network's time: bound 0.5 for resnet50
Exit status 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from engines import Ours, Result
from scaling import locked

from perse_compile import driver
from perse_compile.program import Program

MODELS = ["resnet50", "mobilenet_v2", "densenet121"]
BEYOND = 3.0  # percent of the full network's time
HEAD = {"resnet50": 0.5}


def measure(program: Program, ours: Ours, threads: int, rounds: int) -> dict[str, Any]:
    spec, count = program.input, len(program.exits)
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, spec.channels), np.uint8)
    address, result = ctypes.c_void_p(image.ctypes.data), Result()
    forced = np.empty((rounds, count))
    walked = [(ctypes.c_double * 1)(), (ctypes.c_double * count)(), (ctypes.c_double * count)()]
    parts = np.empty((2, rounds, count))  # milliseconds of stages and of heads
    with ours.session(threads) as handle:
        for turn in range(-2, rounds):  # the first two are not kept
            assert ours.library.perse_profile_u8(handle, address, *walked) == 0
            parts[:, turn] = walked[1], walked[2]
            for exit in range(count):
                start = time.perf_counter()
                assert ours.library.perse_run_u8(handle, address, exit, ctypes.byref(result), None) == 0
                forced[turn, exit] = 1e3 * (time.perf_counter() - start)
                assert result.stages == exit + 1
    full = forced[:, -1]
    cost, up_to = np.median(forced / full[:, None], 0), parts[0].cumsum(1)
    share, heads = np.median(up_to / up_to[:, -1:], 0), np.median(parts[1], 0)
    rows = [
        {
            "exit": e.name,
            "share_of_macs": e.macs / program.exits[-1].macs,
            "share_of_time": float(s),
            "cost": float(c),
            "ms": float(ms),
            "beyond": float(100 * (c - s)),
            "head": float(100 * h / np.median(full)),
        }
        for e, s, c, ms, h in zip(program.exits, share, cost, np.median(forced, 0), heads, strict=True)
    ]
    return {"model": program.name, "threads": threads, "full_ms": statistics.median(full.tolist()), "exits": rows}


def broken(result: dict[str, Any]) -> list[str]:
    """What is beyond its bound."""
    rows, most = result["exits"], HEAD.get(result["model"])
    who = f"{result['model']}, {result['threads']} threads"
    found = [f"{who}: {r['exit']} costs {r['beyond']:.1f} % more" for r in rows if r["beyond"] > BEYOND]
    found += [f"{who}: the head of {r['exit']} {r['head']:.2f} %" for r in rows if most and r["head"] > most]
    return found


HEADS = ("network", "threads", "exit", "ms", "cost", "share by time", "share by MACs", "beyond", "head")


def rows(result: dict[str, Any]) -> str:
    lines = []
    for r in result["exits"]:
        shares = f"{r['cost']:.1%} | {r['share_of_time']:.1%} | {r['share_of_macs']:.1%}".replace("%", " %")
        who = f"{result['model']} | {result['threads']} | {r['exit']} | {r['ms']:.2f}"
        lines.append(f"| {who} | {shares} | {r['beyond']:.2f} % | {r['head']:.2f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--lock", type=Path, help="file to hold while building (shared) and timing (alone)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    if not options.json:
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            with locked(options.lock, fcntl.LOCK_SH):
                program = driver.insert_exits(name, weights="none")
                ours = Ours(program, Path(folder))
            for threads in options.threads:
                with locked(options.lock, fcntl.LOCK_EX):
                    results.append(measure(program, ours, threads, options.rounds))
                if not options.json:
                    print(rows(results[-1]), flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    faults = [fault for result in results for fault in broken(result)]
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
