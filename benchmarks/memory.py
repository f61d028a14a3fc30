"""Memory that one inference needs beyond files mapped into it, against onnxruntime; and the arena against what is live.

    python benchmarks/memory.py [MODEL ...] [--json]

Each engine opens the network and runs it once in a process of its own; a thread there notes the greatest anonymous
resident memory, less what the process had before. Our weights stay in the file and do not count; onnxruntime reads
its own into memory, and its figure without them is printed too.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engines import MODELS, Final, onnx, onnxruntime
from ours import Ours

from perse_compile import driver


def anonymous() -> int:
    """Bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return 1024 * sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))


def greatest(work: Callable[[], Any], answer: Any) -> None:
    """Sends by how many bytes the work raised the process's anonymous memory at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that the parent had freed would be used again unseen
    before, peak, stop = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, anonymous())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = work()
    peak = max(peak, anonymous())
    stop.set()
    watcher.join()
    del kept
    answer.send(peak - before)


def in_own_process(work: Callable[[], Any]) -> int:
    here, there = multiprocessing.Pipe(False)
    process = multiprocessing.get_context("fork").Process(target=greatest, args=(work, there))
    process.start()
    value = int(here.recv())
    process.join()
    return value


def measure(name: str, folder: Path) -> dict[str, Any]:
    import onnxruntime as _loaded  # noqa: F401  (its own code is not what we measure)

    program = driver.insert_exits(name, weights="none")
    spec = program.input
    x = torch.randn(1, spec.channels, spec.height, spec.width)
    module, ours = Final(program).eval(), Ours(program, folder)
    onnx(module, x, folder)

    def run_ours() -> None:
        with ours.opened(x, 1) as at:
            at(ours.exits - 1)()

    def run_theirs() -> Any:
        call = onnxruntime(module, x, 1, folder)
        call()
        return call

    used = {n for n in program.module.graph.nodes if n.op == "get_attr"}
    weights = sum(4 * program.tensor(str(n.target)).numel() for n in used)
    mine, theirs = in_own_process(run_ours), in_own_process(run_theirs)
    return {"model": name, "ours": mine, "onnxruntime": theirs, "onnxruntime_without_weights": theirs - weights} | {
        "arena": ours.network.arena,
        "live": ours.network.live,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = []
    with torch.inference_mode():
        for name in options.models:
            with tempfile.TemporaryDirectory() as folder:
                results.append(measure(name, Path(folder)))
            r = results[-1]
            if not options.json:
                mb = {key: value / 1e6 for key, value in r.items() if key != "model"}
                print(
                    f"{name}: ours {mb['ours']:.1f} MB, onnxruntime {mb['onnxruntime']:.1f} MB,"
                    f" without weights {mb['onnxruntime_without_weights']:.1f} MB;"
                    f" ratio {mb['ours'] / mb['onnxruntime']:.2f};"
                    f" arena {mb['arena']:.1f} MB, {mb['arena'] / mb['live']:.2f} x what is live",
                    flush=True,
                )
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
