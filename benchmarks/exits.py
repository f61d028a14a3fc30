"""What an early exit costs: forced runs against the share of the network they use, and the heads by themselves.

    python benchmarks/exits.py [MODEL ...] [--threads 1 2] [--rounds N] [--lock FILE] [--json]

Each round takes turns with an inference that notes the time after every stage and answers nowhere, a walk through
everything in which every exit answers (`perse_profile_u8`), and an inference forced to each exit (`perse_run_u8`);
figures are medians over the rounds.
  cost    time of the forced inference / that of the full network (forced to the last exit)
  share   time until the exit's last stage is done / the same, and beside it the share by multiply-accumulates
  beyond  cost - share by time, in hundredths of the full network's time: bound 3.
          Of the last exit, the network's own classifier
  head    pooling, head and decision in the walk where every exit answers, in hundredths of the full network's time:
          bound 0.5 for the early exits of resnet50
Exit status 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ours import Ours
from scaling import locked

from perse_compile import driver
from perse_compile.program import Program

MODELS = ["resnet50", "mobilenet_v2", "densenet121"]
UNTIL = r"""
#include "inside.h"
#include <string.h>
#include <time.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}
/* until: [exits] milliseconds from the image to the end of each stage */
int exits_until(perse *p, const uint8_t *image, double *until) {
    const perse_plan *plan = p->plan;
    double start = now();
    memcpy(p->image, image, (size_t)plan->height * plan->width * plan->channels);
    perse_pool_enter(p->pool);
    int code = plan->input_u8(p->arena, p->weights, p->image);
    for (uint32_t e = 0; e < plan->exits && code == 0; e++) {
        code = plan->exit[e].stage(p->arena, p->weights);
        until[e] = now() - start;
    }
    perse_pool_leave();
    return code;
}
/* milliseconds of an inference forced to an exit; negative where it does not stop there */
double exits_forced(perse *p, const uint8_t *image, int exit) {
    perse_result result;
    double start = now();
    perse_status status = perse_run_u8(p, image, exit, &result, NULL);
    return status == PERSE_OK && result.stages == exit + 1 ? now() - start : -1;
}
"""
BEYOND = 3.0  # percent of the full network's time
HEAD = {"resnet50": 0.5}


def measure(program: Program, ours: Ours, threads: int, rounds: int) -> dict[str, Any]:
    spec, count = program.input, len(program.exits)
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, spec.channels), np.uint8)
    address = ctypes.c_void_p(image.ctypes.data)
    ours.library.exits_forced.restype = ctypes.c_double
    forced = np.empty((rounds, count))
    until, heads = np.empty((rounds, count)), np.empty((rounds, count))
    stage, head, start = ((ctypes.c_double * count)() for _ in range(3))
    with ours.session(threads) as handle:
        for turn in range(-2, rounds):  # the first two are not kept
            assert ours.library.exits_until(handle, address, stage) == 0
            until[turn] = stage
            assert ours.library.perse_profile_u8(handle, address, start, stage, head) == 0
            heads[turn] = head
            for exit in range(count):
                forced[turn, exit] = ours.library.exits_forced(handle, address, exit)
    assert (forced >= 0).all()
    full = forced[:, -1:]
    shares, costs, answers = (np.median(times / full, 0) for times in (until, forced, heads))
    rows = [
        {
            "exit": e.name,
            "share_of_macs": e.macs / program.exits[-1].macs,
            "share_of_time": float(s),
            "cost": float(c),
            "ms": float(ms),
            "beyond": float(100 * (c - s)),
            "head": float(100 * h),
        }
        for e, s, c, ms, h in zip(program.exits, shares, costs, np.median(forced, 0), answers, strict=True)
    ]
    return {"model": program.name, "threads": threads, "full_ms": float(np.median(full)), "exits": rows}


def broken(result: dict[str, Any]) -> list[str]:
    """What is beyond its bound."""
    rows, most = result["exits"], HEAD.get(result["model"])
    who = f"{result['model']}, {result['threads']} threads"
    found = [f"{who}: {r['exit']} costs {r['beyond']:.1f} % more" for r in rows[:-1] if r["beyond"] > BEYOND]
    found += [f"{who}: the head of {r['exit']} {r['head']:.2f} %" for r in rows[:-1] if most and r["head"] > most]
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
                (Path(folder) / "until.c").write_text(UNTIL)
                ours = Ours(program, Path(folder), "until.c")
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
