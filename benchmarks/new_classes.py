"""What teaching a network classes that it never had is worth, by how many labelled images of them there are.

    python benchmarks/new_classes.py WORK [--missing "bag,ankle boot"] [--users 10] [--seeds 2] [--jobs 1] [--json FILE]

A small network learns Fashion-MNIST (the Debian package dataset-fashion-mnist) without the missing classes, of which it
sees no image; its exits learn from other images, again without them; it is built for this machine with room for as
many classes. All that stays in the folder WORK and is not made again. Then people, who come with images that nothing
has learnt from: 100 labelled ones of three classes that the network knows, and 5, 10, 20 or 50 of one missing class,
or (every third person) of each of two. Each is measured on other images, before and after: of the new classes, of the
person's known classes, and of the known classes that the person has not shown. `later` is the new class again, after a
second personalisation with other images of the shown classes and none of the new one. Rows are means over those whose
new heads went live; with 0 samples, the same people personalise without the new class.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from people import own_folder
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile import driver
from perse_compile.artifact import open_artifact
from perse_compile.building.build import build
from perse_compile.devices import LocalDevice
from perse_compile.errors import DeviceError
from perse_compile.personalise.data import Images
from perse_compile.personalise.session import Session
from perse_compile.personalise.train_exits import train_exits
from perse_compile.study.watch import link_programs, watch
from perse_compile.targets import load

sys.path.append(str(Path(__file__).parent.parent / "examples"))
import fashion_mnist

SIZE, BATCH, EPOCHS, RATE = 28, 128, 4, 3e-3
PER_CLASS = 3000  # images that the network learns from
KNOWN, SHOWN = 100, 3  # labelled images of known classes, and of how many classes
SAMPLES = (0, 5, 10, 20, 50)  # labelled images of each new class; 0: the same person without, for comparison
TEST = 100  # of each class
Pixels, Labels = NDArray[np.uint8], NDArray[np.int64]


class Network(nn.Module):
    """Six convolutions, two of them around a residual: 3x28x28 pixels."""

    input_size = SIZE

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__()
        widths = ((3, 16, 2), (16, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 2))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, stride=s, padding=1, bias=False) for i, o, s in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _ in widths)
        self.adds = [stride == 1 and i == o for i, o, stride in widths]
        self.classifier = nn.Linear(96, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm, adds in zip(self.layers, self.norms, self.adds, strict=True):
            y = norm(layer(x))
            x = F.relu(y + x) if adds else F.relu(y)
        return self.classifier(x.mean((2, 3)))


def network(num_classes: int = 8) -> nn.Module:
    """What `insert-exits new_classes:network` calls."""
    return Network(num_classes)


# --- the artifact -----------------------------------------------------------------------------------------


def of_classes(images: Pixels, labels: Labels, names: list[str], most: int | None = None) -> tuple[Pixels, Labels]:
    """Images of these classes in three channels, labels by their order here; at most so many of each."""
    place = np.full(len(fashion_mnist.CLASSES), -1)
    place[[fashion_mnist.CLASSES.index(name) for name in names]] = np.arange(len(names))
    kept = np.sort(np.concatenate([np.flatnonzero(place[labels] == k)[:most] for k in range(len(names))]))
    return np.repeat(images[kept][..., None], 3, 3), place[labels[kept]].astype(np.int64)


def learn(pixels: Pixels, labels: Labels, classes: int) -> nn.Module:
    torch.manual_seed(0)
    model, mean, std = (
        Network(classes),
        *(torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    )
    torch.set_num_threads(1)  # images are so small that more threads wait for each other
    model = model.to(memory_format=torch.channels_last)
    steps = len(labels) // BATCH
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * steps)
    for epoch in range(EPOCHS):
        for part in torch.randperm(len(labels))[: steps * BATCH].view(steps, BATCH):
            x = torch.from_numpy(pixels[part.numpy()]).permute(0, 3, 1, 2).float() / 255
            x[::2] = x[::2].flip(3)
            loss = F.cross_entropy(model((x - mean) / std), torch.from_numpy(labels)[part])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def make(work: Path, missing: list[str]) -> Path:
    """The artifact, made if it is not there."""
    artifact, weights = work / "artifact", work / "network.safetensors"
    if artifact.exists():
        return artifact
    work.mkdir(parents=True, exist_ok=True)
    known = [name for name in fashion_mnist.CLASSES if name not in missing]
    images, labels = fashion_mnist.read("train")
    backbone, exits = fashion_mnist.split_training(labels)
    start = time.monotonic()
    if not weights.exists():
        model = learn(*of_classes(images[backbone], labels[backbone], known, PER_CLASS), len(known))
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    print(f"the network learnt in {time.monotonic() - start:.0f} s")
    program = driver.insert_exits(
        "new_classes:network", weights=str(weights), num_classes=len(known), spare_classes=len(missing)
    )
    pixels, truth = of_classes(images[exits], labels[exits], known)
    report = train_exits(program, Images("exits", pixels, truth, known, [""] * len(truth)))
    print(f"full network {report.full:.1%}, with exits {report.early:.1%} at {report.cost:.0%} of the work")
    build(program, load("native"), artifact)
    return artifact


# --- one person -------------------------------------------------------------------------------------------


@cache
def pool() -> tuple[Pixels, Labels]:
    """Images that nothing has learnt from, and their classes among all."""
    images, labels = fashion_mnist.read("t10k")
    return np.repeat(images[..., None], 3, 3), labels


def measured(work: Path, own: Path, tests: dict[str, tuple[Pixels, Labels]]) -> dict[str, float]:
    """Accuracy on each group of images, and of all of them how many leave early and how much faster that is."""
    pixels, truth = (np.concatenate(parts) for parts in zip(*tests.values(), strict=True))
    found = watch(work / "watch", LocalDevice(), own, pixels, truth, 1)
    right, ends = found.answers == truth, np.cumsum([len(labels) for _, labels in tests.values()])
    row = {name: float(part.mean()) for name, part in zip(tests, np.split(right, ends[:-1]), strict=True)}
    row["early"] = float((found.taken < found.labels.shape[1] - 1).mean())
    row["faster"] = float(np.median(found.full_ms) / np.mean(np.median(found.until, 0)[found.taken]))
    return row


def live(work: Path, missing: list[str], seed: int, number: int) -> list[dict[str, Any]]:
    """A row for every number of samples."""
    artifact, (pixels, labels) = open_artifact(work / "artifact"), pool()
    random = np.random.default_rng([seed, number])
    new = [missing[number % len(missing)]] if number % 3 else list(missing)
    names = [*artifact.classes, *new]  # in the order of the labels that the artifact takes
    order = {name: random.permutation(np.flatnonzero(labels == fashion_mnist.CLASSES.index(name))) for name in names}
    shown = [str(name) for name in random.choice(artifact.classes, SHOWN, replace=False)]
    unshown = [name for name in artifact.classes if name not in shown]

    def group(wanted: list[str], count: int, start: int) -> tuple[Pixels, Labels]:
        places = [order[name][start : start + count] for name in wanted]
        truth = [np.full(len(part), names.index(name)) for name, part in zip(wanted, places, strict=True)]
        return pixels[np.concatenate(places)], np.concatenate(truth).astype(np.int64)

    tests = {
        name: group(part, TEST, max(KNOWN, *SAMPLES))
        for name, part in (("new", new), ("shown", shown), ("unshown", unshown))
    }
    session, rows = Session(artifact, LocalDevice()), []

    def teach(folder: str, known: tuple[Pixels, Labels], samples: int, seed: int) -> dict[str, Any]:
        parts = zip(known, group(new, samples, 0), strict=True)
        mine, options = Images("mine", *map(np.concatenate, parts), names, []), {"artifact": folder, "seed": str(seed)}
        try:
            return session.personalise(mine, options, new_classes=new if samples else [])
        except DeviceError as error:
            return {"live": False, "verdict": str(error), "seconds": 0.0}

    share = KNOWN // SHOWN
    with tempfile.TemporaryDirectory() as folder:
        before = measured(work, own_folder(artifact.folder, folder), tests)
    for samples in SAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            own = own_folder(artifact.folder, folder)
            told = teach(folder, group(shown, share, 0), samples, seed + 1)
            row = {"seed": seed, "user": number, "new": new, "samples": samples, "before": before}
            row |= {name: told[name] for name in ("live", "verdict", "seconds")}
            row["after"] = measured(work, own, tests) if told["live"] else before
            if samples and told["live"]:  # and then other images of the known classes only
                again = teach(folder, group(shown, share, share), 0, seed + 2)["live"]
                row["later"] = measured(work, own, tests) if again else row["after"]
        rows.append(row)
    return rows


# --- all of them ------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| new classes | samples of each | let in | new | later | shown: before | after | others: before | after |"
        " early: before | after | seconds |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for classes in sorted({len(row["new"]) for row in rows}):
        for samples in SAMPLES:
            mine = [row for row in rows if len(row["new"]) == classes and row["samples"] == samples]
            taken = [row for row in mine if row["live"]]
            if not taken:
                lines.append(f"| {classes} | {samples} | 0 of {len(mine)} | | | | | | | | | |")
                continue

            def mean(when: str, what: str, of: list[dict[str, Any]] = taken) -> str:
                return f"{np.mean([row[when][what] for row in of]):.1%}"

            cells = [mean("after", "new"), mean("later", "new") if samples else ""]
            for what in ("shown", "unshown", "early"):
                cells += [mean("before", what), mean("after", what)]
            seconds = np.mean([row["seconds"] for row in taken])
            lines.append(
                f"| {classes} | {samples} | {len(taken)} of {len(mine)} | {' | '.join(cells)} | {seconds:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--missing", default="bag,ankle boot")
    for name, value in {"users": 10, "seeds": 2, "jobs": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    missing = given.missing.split(",")
    link_programs(open_artifact(make(given.work, missing)), given.work)
    people = [(seed, number) for seed in range(given.seeds) for number in range(given.users)]
    rows = []
    with ProcessPoolExecutor(given.jobs) as jobs:
        for done, future in enumerate([jobs.submit(live, given.work, missing, *person) for person in people], 1):
            rows += future.result()
            print(f"{done} of {len(people)} people", end="\r", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
