"""Time against work: ten networks at nine input sizes, one thread, and how far each is off the line of its family.

    python benchmarks/scaling.py [MODEL ...] [--sizes N ...] [--out FILE] [--picture FILE] [--lock FILE] [--draw]

A point is the median of several inferences of the full network (our only exit disabled), after two that are not
timed, against its multiply-accumulates. A family is networks whose time goes into the same kind of kernel. Its line is
time = a * MACs, with log a the median over the family's points: a ratio above 1 is slower than the family is for that
much work. What works on one pixel (classifiers, squeeze-and-excite) uses every weight once and goes at the speed of
memory, whatever the size: it is counted apart, by its weights' bytes and the rate at which this machine reads memory,
measured first. The picture shows all. All networks of one size are built, then timed; every point is written to FILE
(scaling.json) at once and not measured again: stop and go on as you like. A network that cannot be compiled for a size
is left out, and the reason is printed. Exit status 1 when a ratio is above 1.5.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from engines import MODELS, Ours

from perse_compile import driver
from perse_compile.errors import PerseError
from perse_compile.macs import node_macs
from perse_compile.program import Program

SIZES = [96, 128, 160, 192, 224, 256, 288, 320, 384]
FAMILIES = {
    "resnet, vgg": ("resnet18", "resnet50", "vgg11_bn"),  # dense 3x3 and 1x1
    "mobilenet, efficientnet": ("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0"),  # 1x1 and depthwise
    "shufflenet": ("shufflenet_v2_x1_0",),  # the same, and channels that change places
    "densenet": ("densenet121",),  # concatenation
    "regnet": ("regnet_y_400mf",),  # grouped 3x3
    "convnext": ("convnext_tiny",),  # depthwise 7x7, products, erf
}
WEIGHTED = ("conv2d", "linear", "head")
BOUND = 1.5
SECONDS = 1.5  # of timed inferences a point, at least RUNS of them
RUNS = 9


@contextlib.contextmanager
def locked(path: Path | None, how: int) -> Iterator[None]:
    """Others who measure on this machine lock the same file; while somebody waits to be alone `gate` keeps all out."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        with path.with_name("gate").open("a") as gate:
            fcntl.flock(gate, how)
            fcntl.flock(file, how)
        yield


@dataclass(frozen=True)
class Built:
    """A network ready to be timed."""

    model: str
    size: int
    macs: int
    once: int  # of these, on one pixel
    channels: int
    ours: Ours

    def measure(self) -> dict[str, Any]:
        with self.ours.opened(torch.randn(1, self.channels, self.size, self.size), 1) as at:
            times = timed(at(self.ours.exits - 1))
        facts = {"model": self.model, "size": self.size, "macs": self.macs, "once": self.once}
        return {**facts, "ms": statistics.median(times), "ms_least": min(times), "runs": len(times)}


def build(model: str, size: int, folder: Path) -> Built:
    program = driver.insert_exits(model, exits=1, weights="none", input_size=(size, size))
    macs, once = program.exits[-1].macs, macs_on_one_pixel(program)
    return Built(model, size, macs, once, program.input.channels, Ours(program, folder))


def macs_on_one_pixel(program: Program) -> int:
    """Multiply-accumulates of the full network that use a weight once."""
    *early, _ = program.module.graph.output_node().args[0]
    single = (n for n in program.module.graph.nodes if n not in early and getattr(n.target, "__name__", "") in WEIGHTED)
    return sum(node_macs(node) for node in single if math.prod(node.meta["shape"][1:]) == 1)


def memory_rate() -> float:
    """Bytes a second that one thread reads from memory."""
    torch.set_num_threads(1)
    many = torch.ones(64 << 20)
    times = timed(lambda: torch.dot(many, many))
    return 4e3 * many.numel() / statistics.median(times)


def build_all(models: list[str], size: int, folder: Path, lock: Path | None) -> list[Built]:
    built = []
    for model in models:
        (folder / model).mkdir()
        try:
            with locked(lock, fcntl.LOCK_SH):
                built.append(build(model, size, folder / model))
        except PerseError as error:
            print(f"{model} {size}: left out: {error}", flush=True)
    return built


def timed(call: Any) -> list[float]:
    """Milliseconds of each inference."""
    call()
    call()
    times: list[float] = []
    while len(times) < RUNS or sum(times) < SECONDS * 1e3:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def family_of(model: str) -> str:
    return next((family for family, models in FAMILIES.items() if model in models), model)


def fit(points: list[dict[str, Any]]) -> dict[str, float]:
    """Nanoseconds per multiply-accumulate of every family; adds each point's ratio to its family's line."""
    slopes: dict[str, float] = {}
    for family in dict.fromkeys(family_of(p["model"]) for p in points):
        own = [p for p in points if family_of(p["model"]) == family]
        rates = [max(1e6 * p["ms"] - reading(p), 1.0) / (p["macs"] - p["once"]) for p in own]
        slopes[family] = math.exp(statistics.median(map(math.log, rates)))
        for p in own:
            p["ratio"] = 1e6 * p["ms"] / (slopes[family] * (p["macs"] - p["once"]) + reading(p))
            p["of_all"] = 1e6 * p["ms"] / (slopes[family] * p["macs"])
    return slopes


def reading(point: dict[str, Any]) -> float:
    """Nanoseconds that it takes to read the weights that are used once."""
    return 1e9 * 4 * float(point["once"]) / float(point["memory_rate"])


def table(points: list[dict[str, Any]], slopes: dict[str, float]) -> str:
    """Markdown: a row a network, a column a size, ratios to the family's line."""
    sizes = sorted({p["size"] for p in points})
    lines = ["| network | family: ps per MAC | " + " | ".join(map(str, sizes)) + " |", "|---" * (len(sizes) + 2) + "|"]
    for model in dict.fromkeys(p["model"] for p in points):
        ratios = {p["size"]: f"{p['ratio']:.2f}" for p in points if p["model"] == model}
        family = family_of(model)
        cells = [model, f"{family}: {1e3 * slopes[family]:.1f}", *(ratios.get(size, "") for size in sizes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(points: list[dict[str, Any]], slopes: dict[str, float], path: Path) -> None:
    """Both axes logarithmic: families are lines of one slope, and a point's height above its line is its ratio."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 7))
    for family, slope in slopes.items():
        own = [p for p in points if family_of(p["model"]) == family]
        ends = [min(p["macs"] for p in own), max(p["macs"] for p in own)]
        [line] = axis.loglog([m / 1e9 for m in ends], [slope * m / 1e6 for m in ends], linewidth=1.5)
        for model, marker in zip(dict.fromkeys(p["model"] for p in own), "os^", strict=False):
            chosen = [p for p in own if p["model"] == model]
            axis.loglog(
                [p["macs"] / 1e9 for p in chosen], [p["ms"] for p in chosen], marker,
                color=line.get_color(), markersize=7, alpha=0.8, label=model,
            )  # fmt: skip
    axis.set_xlabel("billions of multiply-accumulates", fontsize=14)
    axis.set_ylabel("milliseconds, one thread", fontsize=14)
    axis.tick_params(labelsize=13)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter("")
    axis.grid(which="both", alpha=0.25)
    axis.legend(fontsize=12)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def show(point: dict[str, Any]) -> None:
    print(f"{point['model']} {point['size']}: {point['ms']:.2f} ms, {point['macs'] / 1e6:.0f} MMACs", flush=True)


def report(points: list[dict[str, Any]], picture: Path) -> None:
    slopes = fit(points)
    print(table(points, slopes))
    draw(points, slopes, picture)
    worst, raw = (max(points, key=lambda p: p[key]) for key in ("ratio", "of_all"))
    print(f"\nworst: {worst['model']} at {worst['size']}, {worst['ratio']:.2f} x its family's line; bound {BOUND}")
    print(f"by multiply-accumulates alone: {raw['model']} at {raw['size']}, {raw['of_all']:.2f} x")
    if worst["ratio"] > BOUND:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--picture", type=Path, default=Path("scaling.png"))
    parser.add_argument("--lock", type=Path, help="file to hold while building (shared) and timing (alone)")
    parser.add_argument("--draw", action="store_true", help="measure nothing more")
    options = parser.parse_args()
    points: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(p["model"], p["size"]) for p in points}
    for size in [] if options.draw else options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            left = [m for m in options.models if (m, size) not in done]
            built = build_all(left, size, Path(folder), options.lock)
            with locked(options.lock if built else None, fcntl.LOCK_EX):
                rate = memory_rate() if built else 0.0
                for network in built:
                    points.append({**network.measure(), "memory_rate": rate})
                    options.out.write_text(json.dumps(points, indent=1) + "\n")
                    show(points[-1])
    if not points:
        raise SystemExit(f"no points in {options.out}; leave --draw out to measure some")
    report(sorted(points, key=lambda p: (MODELS.index(p["model"]), p["size"])), options.picture)


if __name__ == "__main__":
    main()
