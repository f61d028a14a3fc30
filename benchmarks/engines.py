"""The full network against other engines: same weights, same machine, same threads, one process, taking turns.

    python benchmarks/engines.py [MODEL ...] [--threads 1 2] [--rounds N] [--engines NAME ...] [--out FOLDER]
                                 [--target NAME] [--database FILE]

With --database ours is tuned by what `perse-compile tune --target NAME --database FILE` found, and what it is without
takes its turns too. Every round each engine runs the network a few times; a round gives each engine's median, and a
network's ratio is the median over the rounds of (fastest peer / ours). Weights are random: speed does not depend on
them. Our early exits are disabled, then each is forced. Writes FOLDER/engines.json and FOLDER/engines.png.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import platform
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host import this_machine
from ours import Call, Ours

from perse_compile import driver, targets
from perse_compile.lowering.choices import Choices
from perse_compile.program import Program
from perse_compile.tuning.database import open_database

MODELS = [
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "shufflenet_v2_x1_0",
    "densenet121", "regnet_y_400mf", "convnext_tiny", "vgg11_bn",
]  # fmt: skip
RUNS = 4  # timed inferences of one engine's turn, after one that is not


class Final(torch.nn.Module):
    """The backbone and its own classifier, without our exits."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.inner = program.module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[-1]


def onnxruntime(module: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx(module, x, folder), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def openvino(module: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Call:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    compiled = core.compile_model(openvino.convert_model(onnx(module, x, folder)), "CPU", settings)
    request, pixels = compiled.create_infer_request(), x.numpy()
    return lambda: request.infer({0: pixels})[0]


def executorch(module: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Call:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib

    path = folder / "network.pte"
    if not path.exists():
        exported = torch.export.export(module, (x,))
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)
    portable_lib._unsafe_reset_threadpool(threads)
    loaded = portable_lib._load_for_executorch(str(path))
    return lambda: loaded.forward((x,))[0].numpy()


def torch_eager(module: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Call:
    return lambda: module(x).numpy()


def torch_eager_nhwc(module: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Call:
    import copy

    last, pixels = copy.deepcopy(module).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return lambda: last(pixels).numpy()


def torch_compile(module: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> Call:
    torch._dynamo.reset()
    torch._inductor.config.freezing = True
    compiled = torch.compile(module)
    return lambda: compiled(x).numpy()


ENGINES = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "executorch": executorch,
    "torch": torch_eager,
    "torch nhwc": torch_eager_nhwc,
    "torch.compile": torch_compile,
}


def onnx(module: torch.nn.Module, x: torch.Tensor, folder: Path) -> str:
    path = folder / "network.onnx"
    if not path.exists():
        torch.onnx.export(module, (x,), str(path), dynamo=False)
    return str(path)


def turn(call: Call) -> float:
    """Milliseconds: the median of a few runs, after the threads of the engine before have gone to sleep."""
    time.sleep(0.1)
    call()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    program, rounds = driver.insert_exits(name, weights="none"), options.rounds
    spec = program.input
    torch.manual_seed(0)
    x = torch.randn(1, spec.channels, spec.height, spec.width)
    module, last = Final(program).eval(), len(program.exits) - 1
    made = {
        way: Ours(program, made_in(folder / way), choices=choices)
        for way, choices in all_choices(options.target, options.database).items()
    }
    results = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        with contextlib.ExitStack() as stack:
            opened = {way: stack.enter_context(ours.opened(x, threads)) for way, ours in made.items()}
            at = opened["ours"]
            peers = {engine: ENGINES[engine](module, x, threads, folder) for engine in options.engines}
            calls = {**{way: to(last) for way, to in opened.items()}, **peers}
            times, forced = take_turns(calls, [at(exit) for exit in range(last + 1)], rounds)
            expected = module(x).numpy().ravel()
            differences = {n: float(np.abs(np.asarray(c()).ravel() - expected).max()) for n, c in calls.items()}
        gained = [u / o for u, o in zip(times.get("untuned", ()), times["ours"], strict=False)]
        ratios = [min(times[p][r] for p in peers) / times["ours"][r] for r in range(rounds)]
        scale = float(np.abs(expected).max())
        results.append(
            {
                "model": name,
                "threads": threads,
                "ms": {engine: statistics.median(values) for engine, values in times.items()},
                **({"untuned/ours": statistics.median(gained)} if gained else {}),
                "fastest_peer": min(peers, key=lambda p: statistics.median(times[p])),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "relative_difference_to_torch": {n: value / scale for n, value in differences.items()},
                "exits": [
                    {"exit": e.name, "share_of_macs": e.macs / program.exits[-1].macs, "ms": ms}
                    for e, ms in zip(program.exits, forced, strict=True)
                ],
            }
        )
    return results


def all_choices(target: str | None, database: Path | None) -> dict[str, Choices]:
    """Ours, and with a database also what it is without."""
    device = targets.load(target) if target else this_machine()
    if database is None:
        return {"ours": Choices(device)}
    remembered = open_database(database).remembered(device)
    return {"ours": Choices(device, remembered), "untuned": Choices(device)}


def made_in(folder: Path) -> Path:
    folder.mkdir()
    return folder


def take_turns(calls: dict[str, Call], exits: list[Call], rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Milliseconds of every engine in every round, and the median of each of our exits."""
    times: dict[str, list[float]] = {engine: [] for engine in calls}
    forced: list[list[float]] = [[] for _ in exits]
    for _ in range(rounds):
        for engine, call in calls.items():
            times[engine].append(turn(call))
        for position, call in enumerate(exits):
            forced[position].append(turn(call))
    return times, [statistics.median(values) for values in forced]


def show(result: dict[str, Any]) -> None:
    ms = "  ".join(f"{engine} {value:.2f}" for engine, value in result["ms"].items())
    low, high = result["ratio_range"]
    gained = f", {result['untuned/ours']:.2f} x as fast as untuned" if "untuned/ours" in result else ""
    print(
        f"{result['model']}, {result['threads']} threads: {result['ratio']:.2f} ({low:.2f} to {high:.2f})"
        f" x as fast as {result['fastest_peer']}{gained}; ms: {ms}",
        flush=True,
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def picture(results: list[dict[str, Any]], path: Path) -> None:
    """Time of every engine as a multiple of ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    all_threads = sorted({r["threads"] for r in results})
    figure, axes = pyplot.subplots(len(all_threads), 1, figsize=(12, 4.2 * len(all_threads)), squeeze=False)
    for axis, threads in zip(axes[:, 0], all_threads, strict=True):
        rows = [r for r in results if r["threads"] == threads]
        engines = [engine for engine in rows[0]["ms"] if engine != "ours"]  # "untuned" too
        width = 0.8 / len(engines)
        for k, engine in enumerate(engines):
            heights = [r["ms"][engine] / r["ms"]["ours"] for r in rows]
            axis.bar([i + k * width for i in range(len(rows))], heights, width, label=engine)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_ylim(0, 4)
        axis.set_ylabel("time / ours")
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}: above the line we are faster (cut at 4)")
        axis.set_xticks(
            [i + 0.4 - width / 2 for i in range(len(rows))], [r["model"] for r in rows], rotation=20, ha="right"
        )
        axis.legend(ncols=len(engines), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--target", help="what ours is built for; this machine's is x86_64-linux or arm64-linux")
    parser.add_argument("--database", type=Path, help="of `perse-compile tune`")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for the results (bench)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    options.out.mkdir(exist_ok=True)
    results: list[dict[str, Any]] = []
    with torch.inference_mode():
        for name in options.models:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                found = measure(name, options, Path(folder))
            for result in found:
                show(result)
            results += found
            report = {
                "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
                "versions": {p: version(p) for p in ("torch", "onnxruntime", "openvino", "executorch", "apache-tvm")},
                "results": results,
            }
            (options.out / "engines.json").write_text(json.dumps(report, indent=2) + "\n")
    for threads in options.threads:
        rows = [r for r in results if r["threads"] == threads]
        mean = geometric_mean([r["ratio"] for r in rows])
        print(f"{threads} threads: geometric mean of fastest peer / ours: {mean:.2f}")
        if options.database:
            gained = geometric_mean([r["untuned/ours"] for r in rows])
            print(f"{threads} threads: geometric mean of untuned / ours: {gained:.3f}")
    picture(results, options.out / "engines.png")


if __name__ == "__main__":
    main()
