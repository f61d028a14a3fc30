"""What types of heads are worth to people, and what they cost.

    python benchmarks/heads.py people WORK IMAGES.npz [--heads auto pooled bottleneck@40kB ...] [--users 12] [--seeds 1]
    python benchmarks/heads.py costs [resnet50] [--heads ...] [--rounds 21]

A head is TYPE or TYPE@BUDGET, as --head and --head-budget of insert-exits have them.

people: the network of examples/, with exits trained on the images there, is built with each head in the folder WORK and
not made again. Then simulated people of the `development` population, from IMAGES.npz, which the network never saw:
300 images each, all, a tenth or none of them labelled. Accuracy is of their own test images: of every exit as built and
with the person's heads (all labelled), and of the exits together, as a change against the full network as built.
costs: bytes, and milliseconds of pooling, projection, head and decision, random weights, one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from people import data_of, own_folder, personalise

from perse_compile import driver
from perse_compile.artifact import open_artifact
from perse_compile.building.build import build
from perse_compile.devices import LocalDevice
from perse_compile.manifest import PACK
from perse_compile.passes.head_types import head_facts
from perse_compile.personalise.data import Images, read_images
from perse_compile.personalise.train_exits import train_exits
from perse_compile.personalise.users import POPULATIONS, Sizes, seen_by, simulate
from perse_compile.study.watch import Observation, link_programs, watch
from perse_compile.targets import load

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HEADS = [
    "auto", "pooled", "multiscale", "bottleneck", "bottleneck@130kB", "bottleneck@40kB", "auto@25kB", "auto@16kB",
]  # fmt: skip
COSTS = ["auto", "pooled", "multiscale", "bottleneck", "auto@400kB", "auto@100kB"]
TRAIN, LABELS = 300, (1.0, 0.1, 0.0)


def wished(text: str) -> dict[str, str | None]:
    """Of TYPE@BUDGET, for insert_exits."""
    head, _, budget = text.partition("@")
    return {"head": head, "head_budget": budget or None}


# --- people -----------------------------------------------------------------------------------------------


def make(work: Path, head: str) -> Path:
    """The artifact with these heads and the programs that watch it, made if it is not there."""
    folder = work / head
    if not (folder / "artifact").exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights = str(EXAMPLES / "fashion_mnist_shufflenet.safetensors")
        program = driver.insert_exits("model:fashion_shufflenet", weights=weights, **wished(head))  # type: ignore[arg-type]
        train_exits(program, read_images(EXAMPLES / "fashion_mnist_train.npz", program.input, program.classes))
        build(program, load("native"), folder / "artifact")
        link_programs(open_artifact(folder / "artifact"), folder)
    return folder


def live(work: Path, data: Path, head: str, users: int, test: int, seed: int, number: int) -> list[dict[str, Any]]:
    """A row for every share of labels of one person."""
    folder = work / head
    images = data_of(folder / "artifact", data)
    population = POPULATIONS["development"]
    user = simulate(images, users, population, seed=seed, sizes=Sizes(train=TRAIN, test=test))[number]
    seen, rows = seen_by(user, images, "test"), []
    for labels in LABELS:
        with tempfile.TemporaryDirectory() as scratch:
            own = own_folder(folder / "artifact", scratch)
            before = watched(folder, own, seen)
            started = time.monotonic()
            told = personalise(folder / "artifact", own, seen_by(user, images, "train", labels=labels), seed + 1)
            seconds = time.monotonic() - started
            after = watched(folder, own, seen)
        rows.append({
            "head": head, "seed": seed, "user": number, "labels": labels, "live": told["live"], "seconds": seconds,
            "built": right(before), "own": right(after), "full": right(before)[-1],
            "together": float((after.answers == after.truth).mean()), "ms": np.median(before.until, 0).tolist(),
        })  # fmt: skip
    return rows


def watched(folder: Path, own: Path, seen: Images) -> Observation:
    assert seen.labels is not None
    return watch(folder / "watch", LocalDevice(), own, seen.pixels, seen.labels, 1)


def right(seen: Observation) -> list[float]:
    """Of every exit alone."""
    return [float(share) for share in (seen.labels == seen.truth[:, None]).mean(0)]


def table(work: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    names = ["--head", "heads", "an answer reads, kB", "heads.pack", "features cached", "ms to each exit", "as built"]
    names += ["own, 100 %", *(f"{share:.0%} labelled" for share in LABELS), "seconds"]
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    for head in dict.fromkeys(row["head"] for row in rows):
        mine = [row for row in rows if row["head"] == head]
        artifact = open_artifact(work / head / "artifact")
        exits = artifact.manifest["exits"]
        all_labelled = [row for row in mine if row["labels"] == 1]
        cells = [
            head.replace("@", ", "),
            ", ".join(exit["head_words"] for exit in exits[:-1]),
            ", ".join(f"{exit['head_bytes'] / 1e3:.0f}" for exit in exits[:-1]),
            f"{(artifact.folder / PACK).stat().st_size / 1e3:.0f} kB",
            f"{sum(exit['cache_bytes'] for exit in exits)} bytes",
            ", ".join(f"{ms:.2f}" for ms in np.median([row["ms"] for row in all_labelled], 0)),
            *(percents([row[when] for row in all_labelled]) for when in ("built", "own")),
        ]
        for labels in LABELS:
            change = [row["together"] - row["full"] for row in mine if row["labels"] == labels]
            cells.append(f"{100 * np.mean(change):+.1f} ({100 * np.min(change):+.1f})")
        seconds = np.median([row["seconds"] for row in all_labelled])
        yield f"| {' | '.join(cells)} | {seconds:.2f} |"


def percents(rows: list[list[float]]) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in np.mean(rows, 0))


def people(given: argparse.Namespace) -> None:
    sys.path.append(str(EXAMPLES))
    heads = given.heads or HEADS
    for head in heads:
        make(given.work, head)
        print(f"made {head}", end="    \r", flush=True)
    persons = [(seed, number) for seed in range(given.seeds) for number in range(given.users)]
    rows = []
    with ProcessPoolExecutor(given.jobs) as pool:
        common = given.users, given.test
        futures = [pool.submit(live, given.work, given.data, h, *common, *who) for who in persons for h in heads]
        for done, future in enumerate(futures, 1):
            rows += future.result()
            print(f"{done} of {len(futures)}", end="\r", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows))
    print("\n".join(table(given.work, sorted(rows, key=lambda row: heads.index(row["head"])))))


# --- costs ------------------------------------------------------------------------------------------------


def costs(given: argparse.Namespace) -> None:
    from exits import UNTIL, measure
    from ours import Ours

    names = ["--head", "exit", "head", "an answer reads, kB", "in a pack, kB", "cached an image, bytes"]
    print(f"| {' | '.join([*names, 'head, % of the full time'])} |")
    print("|---" * 7 + "|")
    for head in given.heads or COSTS:
        program = driver.insert_exits(given.model, weights="none", **wished(head))  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "until.c").write_text(UNTIL)
            found = measure(program, Ours(program, Path(folder), "until.c"), 1, given.rounds)
        for exit, row in zip(program.exits, found["exits"], strict=True):
            facts = head_facts(exit, program.outputs)
            sizes = f"{facts['head_bytes'] / 1e3:.0f} | {facts['pack_bytes'] / 1e3:.0f} | {facts['cache_bytes']}"
            name = head.replace("@", ", ")
            print(f"| {name} | {exit.name} | {facts['head_words']} | {sizes} | {row['head']:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("people")
    one.add_argument("work", type=Path)
    one.add_argument("data", type=Path)
    for name, value in {"users": 12, "seeds": 1, "test": 300, "jobs": 1}.items():
        one.add_argument(f"--{name}", type=int, default=value)
    one.add_argument("--json", type=Path)
    one.set_defaults(run=people)
    other = commands.add_parser("costs")
    other.add_argument("model", nargs="?", default="resnet50")
    other.add_argument("--rounds", type=int, default=21)
    other.set_defaults(run=costs)
    for command in (one, other):
        command.add_argument("--heads", nargs="+", help="types and budgets; some of each by default")
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
