"""Where the time goes: every kernel of a network timed in its place, on this machine.

    python benchmarks/layers.py [MODEL ...] [--runs N] [--threads N] [--by-kind]

Each line: share of the time, milliseconds (median of the runs), GFLOP/s where it multiplies, the kernel, what it is.
The first line also tells how fast one thread multiplies and adds with all in registers, measured before and after the
network, and how long it would take if every kernel that multiplies did so at that speed and the others took what they
take: no choice of loops and tiles makes it quicker than that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from host import compile_c, write_artifact

from perse_compile import driver

HARNESS = r"""
#define _GNU_SOURCE
#include "inside.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
enum { LINES = 20000, RUNS = @RUNS@ };
static double times[LINES][RUNS];
static const char *names[LINES];
static int run;
double layers_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}
void layers_note(int line, const char *name, double ms) { names[line] = name; times[line][run] += ms; }
static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
#if defined(__x86_64__)
enum { FLOATS = 8 };
#define IN_REGISTER "+x"
__attribute__((target("avx2,fma")))
#else
enum { FLOATS = 4 };
#define IN_REGISTER "+w"
#endif
static double peak(void) { /* multiplications and additions per nanosecond; twelve sums do not wait for each other */
    enum { SUMS = 12, TURNS = 20000000 };
    typedef float vector __attribute__((vector_size(4 * FLOATS)));
    vector sum[SUMS], all = {0}, x = all + 0.9999f, y = all + 0.5f;
    for (int i = 0; i < SUMS; i++) sum[i] = all + (float)i;
    double start = layers_now();
    for (int turn = 0; turn < TURNS; turn++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * x + y;
        __asm__ volatile("" : IN_REGISTER(x), IN_REGISTER(y));
    }
    double ms = layers_now() - start;
    for (int i = 0; i < SUMS; i++) all += sum[i];
    return isfinite((double)all[0]) ? 2.0 * SUMS * FLOATS * TURNS / ms * 1e-6 : 0;
}
int main(int argc, char **argv) {
    double before = peak();
    const perse_plan *plan = &perse_the_plan;
    size_t size = perse_memory_size(@THREADS@);
    perse *p;
    if (argc < 2 || perse_open(&p, argv[1], @THREADS@, malloc(size), size) != PERSE_OK) return puts(perse_detail()), 1;
    uint32_t pixels = plan->height * plan->width * plan->channels;
    uint8_t *image = aligned_alloc(64, (pixels + 63) / 64 * 64);
    for (uint32_t i = 0; i < pixels; i++) image[i] = (uint8_t)(i * 2654435761u >> 24);
    perse_result r;
    for (run = 0; run < RUNS; run++)
        if (perse_run_u8(p, image, (int)plan->exits - 1, &r, NULL) != PERSE_OK) return 1;
    for (int i = 0; i < LINES; i++)
        if (names[i] != NULL) {
            qsort(times[i], RUNS, sizeof(double), ascending);
            printf("%.9g %s\n", times[i][RUNS / 2], names[i]);
        }
    double after = peak();
    printf("%.9g peak\n", before > after ? before : after);
    return 0;
}
"""
MACRO = """
double layers_now(void);
void layers_note(int line, const char *name, double ms);
#define RUN(call) \\
    do { \\
        double start = layers_now(); \\
        if ((call) != 0) return 1; \\
        layers_note(__LINE__, #call, layers_now() - start); \\
    } while (0)
"""


def measure(name: str, runs: int, threads: int, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Kernels, and GFLOP/s of one thread that reads nothing."""
    network = write_artifact(driver.insert_exits(name, weights="none"), folder)
    (folder / "layers.h").write_text(MACRO)
    (folder / "layers.c").write_text(HARNESS.replace("@RUNS@", str(runs)).replace("@THREADS@", str(threads)))
    compile_c(folder, "layers", "-no-pie", "-include", "layers.h", "layers.c")
    output = subprocess.run(["./layers", "."], cwd=folder, check=True, capture_output=True, text=True).stdout
    rows, peak = [], 0.0
    for line in output.splitlines():
        ms, _, call = line.partition(" ")
        kernel = call.partition("(")[0]
        if kernel == "peak":
            peak = float(ms)
        if kernel not in network.kernels:
            continue
        attrs = network.kernels[kernel].attrs or {}
        macs, what = int(attrs["macs"]) if "macs" in attrs else 0, str(attrs["what"]) if "what" in attrs else ""
        rows.append({"ms": float(ms), "kernel": kernel.removeprefix("perse_k_"), "macs": macs, "what": what})
    return rows, peak


def show(name: str, rows: list[dict[str, Any]], peak: float, by_kind: bool) -> None:
    """`peak`: GFLOP/s of all threads."""
    total, macs = sum(r["ms"] for r in rows), sum(r["macs"] for r in rows)
    least = sum(min(r["ms"], 2e-6 * r["macs"] / peak) if r["macs"] else r["ms"] for r in rows)
    print(
        f"{name}: {total:.2f} ms, {macs / 1e6:.0f} MMACs, {2e-6 * macs / total:.1f} GFLOP/s; with all that multiplies"
        f" at {peak:.1f} GFLOP/s {least:.2f} ms, {total / least:.2f} times as fast"
    )
    if by_kind:
        kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            kinds[row["what"].partition(" @")[0] or row["kernel"].rstrip("_0123456789")].append(row)
        rows = [
            {"ms": sum(r["ms"] for r in of), "macs": sum(r["macs"] for r in of), "kernel": kind, "what": f"x{len(of)}"}
            for kind, of in kinds.items()
        ]
        rows.sort(key=lambda row: -row["ms"])
    for row in rows:
        speed = f"{2e-6 * row['macs'] / row['ms']:6.1f}" if row["macs"] else "      "
        print(f"{100 * row['ms'] / total:5.1f} %  {row['ms']:8.3f} ms  {speed}  {row['kernel']:44.44}  {row['what']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet50"])
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--by-kind", action="store_true", help="sum kernels of one kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            rows, peak = measure(name, options.runs, options.threads, Path(folder))
        peak *= options.threads
        if options.json:
            print(json.dumps({name: rows, "peak": peak}))
        else:
            show(name, rows, peak, options.by_kind)


if __name__ == "__main__":
    main()
