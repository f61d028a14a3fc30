"""Time against work: ten networks at nine input sizes, one thread, and how far each is off the line of its family.

    python benchmarks/scaling.py [MODEL ...] [--sizes N ...] [--out FILE] [--picture FILE] [--lock FILE] [--draw]

A point is the median of several inferences of the full network (our only exit disabled), after two that are not
timed, against its multiply-accumulates. A family is torchvision's, and its line is straight with a beginning,
    time = a * (MACs + c),   c >= 0
where c stands for what does not shrink with the image: weights are read once however small it is. The line is the one
that its points are least off: of all a and c these have the smallest greatest |log(time / line)|, so that a family is
within the bound if any line is. A ratio above 1 is slower than the line; the picture shows all. A family of one
network has a line of its own. All networks of one size are built, then timed; every point is written to FILE
(scaling.json) at once and not measured again: stop and go on as you like. A network that cannot be compiled for a size
is left out, and the reason is printed. Exit status 1 when a network is more than 1.5 times off, slower or faster.
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
from engines import MODELS
from ours import Ours

from perse_compile import driver
from perse_compile.errors import PerseError

SIZES = [96, 128, 160, 192, 224, 256, 288, 320, 384]
FAMILIES = ("resnet", "mobilenet", "efficientnet", "shufflenet", "densenet", "regnet", "convnext", "vgg")
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
    channels: int
    ours: Ours

    def measure(self) -> dict[str, Any]:
        with self.ours.opened(torch.randn(1, self.channels, self.size, self.size), 1) as at:
            times = timed(at(self.ours.exits - 1))
        facts = {"model": self.model, "size": self.size, "macs": self.macs}
        return {**facts, "ms": statistics.median(times), "ms_least": min(times), "runs": len(times)}


def build(model: str, size: int, folder: Path) -> Built:
    program = driver.insert_exits(model, exits=1, weights="none", input_size=(size, size))
    return Built(model, size, program.exits[-1].macs, program.input.channels, Ours(program, folder))


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
    return next((family for family in FAMILIES if model.startswith(family)), model)


@dataclass(frozen=True)
class Line:
    """time = slope * (MACs + constant); nanoseconds."""

    slope: float
    constant: float
    off: float  # the greatest |log(time / line)|

    def at(self, macs: float) -> float:
        """Milliseconds."""
        return self.slope * (macs + self.constant) / 1e6


def line_through(points: list[dict[str, Any]], constant: float) -> Line:
    logs = [math.log(1e6 * p["ms"] / (p["macs"] + constant)) for p in points]
    return Line(math.exp((max(logs) + min(logs)) / 2), constant, (max(logs) - min(logs)) / 2)


def fit(points: list[dict[str, Any]]) -> dict[str, Line]:
    """Every family's line; adds to each point its ratio to it, and to the best line through zero."""
    lines: dict[str, Line] = {}
    for family in dict.fromkeys(family_of(p["model"]) for p in points):
        own = [p for p in points if family_of(p["model"]) == family]
        most = max(p["macs"] for p in own)
        constants = [0.0, *(most * 10 ** (step / 50 - 4) for step in range(201))]  # to as much as the largest
        lines[family] = min((line_through(own, constant) for constant in constants), key=lambda line: line.off)
        through_zero = line_through(own, 0)
        for p in own:
            p["ratio"], p["by_macs"] = p["ms"] / lines[family].at(p["macs"]), p["ms"] / through_zero.at(p["macs"])
    return lines


def off(ratio: float) -> float:
    """How many times slower or faster."""
    return max(ratio, 1 / ratio)


def table(points: list[dict[str, Any]], lines: dict[str, Line]) -> str:
    """Markdown: a row a network, a column a size, ratios to the family's line."""
    sizes = sorted({p["size"] for p in points})
    head = ["network", "family", "ps per MAC", "constant, MMACs", *map(str, sizes)]
    rows = [head, ["---"] * len(head)]
    for model in dict.fromkeys(p["model"] for p in points):
        ratios = {p["size"]: f"{p['ratio']:.2f}" for p in points if p["model"] == model}
        family = family_of(model)
        line = lines[family]
        about = [model, family, f"{1e3 * line.slope:.1f}", f"{line.constant / 1e6:.0f}"]
        rows.append([*about, *(ratios.get(size, "") for size in sizes)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(points: list[dict[str, Any]], lines: dict[str, Line], path: Path) -> None:
    """Both axes logarithmic, so that a point's height above its line is its ratio; lines bend where they begin."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 7))
    for family, fitted in lines.items():
        own = [p for p in points if family_of(p["model"]) == family]
        least, most = (ends(p["macs"] for p in own) for ends in (min, max))
        macs = [least * (most / least) ** (step / 40) for step in range(41)]
        [line] = axis.loglog([m / 1e9 for m in macs], [fitted.at(m) for m in macs], linewidth=1.5)
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
    lines = fit(points)
    print(table(points, lines))
    draw(points, lines, picture)
    worst, raw = (max(points, key=lambda p: off(p[key])) for key in ("ratio", "by_macs"))
    print(f"\nworst: {worst['model']} at {worst['size']}, {worst['ratio']:.2f} x its family's line; bound {BOUND}")
    print(f"of lines through zero: {raw['model']} at {raw['size']}, {raw['by_macs']:.2f} x")
    if off(worst["ratio"]) > BOUND:
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
                for network in built:
                    points.append(network.measure())
                    options.out.write_text(json.dumps(points, indent=1) + "\n")
                    show(points[-1])
    if not points:
        raise SystemExit(f"no points in {options.out}; leave --draw out to measure some")
    report(sorted(points, key=lambda p: (MODELS.index(p["model"]), p["size"])), options.picture)


if __name__ == "__main__":
    main()
