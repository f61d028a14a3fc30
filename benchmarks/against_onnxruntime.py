"""The full network of a built artifact against onnxruntime: same weights, one thread, interleaved in one run.

    python benchmarks/against_onnxruntime.py [MODEL ...] [--rounds N] [--json]

Builds each model for this machine with random weights (speed does not depend on them), early exits disabled as built,
and prints the median of the pairwise ratios: our time / onnxruntime's time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from perse_compile import devices, driver, targets
from perse_compile.building.build import build
from perse_compile.personalise.session import Session

TARGETS = {"x86_64": "x86_64-linux", "aarch64": "arm64-linux"}


def onnx_session(program: Any, folder: Path) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """The backbone and its own classifier, without our exits."""

    class Final(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return program.module(x)[-1]

    spec = program.input
    x = torch.randn(1, spec.channels, spec.height, spec.width)
    path = folder / "network.onnx"
    module = Final().eval()
    module.inner = program.module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(path), dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, {session.get_inputs()[0].name: x.numpy()}


def measure(name: str, rounds: int, folder: Path) -> dict[str, Any]:
    program = driver.insert_exits(name, weights="none")
    target = targets.load(TARGETS[platform.machine()])
    artifact = build(program, target, folder / name).artifact
    ours = Session(artifact, devices.find("local", artifact.machine, artifact.emulator))
    theirs, feed = onnx_session(program, folder)
    theirs.run(None, feed)
    mine, peer, ratios = [], [], []
    for _ in range(rounds):
        mine.append(ours.simple("bench", "--runs", "5")["full_ms"])
        times = []
        for _ in range(5):
            start = time.perf_counter()
            theirs.run(None, feed)
            times.append((time.perf_counter() - start) * 1e3)
        peer.append(statistics.median(times))
        ratios.append(mine[-1] / peer[-1])
    return {
        "model": name,
        "ours_ms": statistics.median(mine),
        "onnxruntime_ms": statistics.median(peer),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "onnxruntime": onnxruntime.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    np.random.seed(0)
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            results.append(measure(name, options.rounds, Path(folder)))
            if not options.json:
                r = results[-1]
                print(
                    f"{name}: {r['ours_ms']:.1f} ms, onnxruntime {r['onnxruntime']} {r['onnxruntime_ms']:.1f} ms,"
                    f" ratio {r['ratio']:.2f} ({r['ratio_range'][0]:.2f} to {r['ratio_range'][1]:.2f}), one thread",
                    flush=True,
                )
    if options.json:
        json.dump(results, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
