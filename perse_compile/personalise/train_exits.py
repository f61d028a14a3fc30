"""Train a program's exits on the host: the backbone runs once per image, the heads learn from what it left.

1. features: the pooled features of every exit, from the frozen backbone, cached
2. split: train, calibrate and held-out images, disjoint, the same share of every class in each
3. heads: standardised, then learnt from the labels and from the final exit (soft targets, docs/method.md)
4. calibrate: a temperature for every exit, thresholds for the stated drop of accuracy (calibrate.py)
5. commit: the program changes only now, and only its heads and what it knows of the images' levels (levels.py); an
   interrupted training leaves it as it was
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perse_compile.errors import DataError, PassError
from perse_compile.personalise.calibrate import Worth, fit_temperature, fit_thresholds, softmax
from perse_compile.personalise.data import Images, require_two_classes, unnamed
from perse_compile.personalise.features import Progress, extract_features
from perse_compile.personalise.learning import (
    PARTS,
    Head,
    Lesson,
    Projection,
    blank,
    projected,
    standardise,
    train_bottleneck,
    train_head,
)  # fmt: skip
from perse_compile.personalise.levels import measure_levels
from perse_compile.program import Exit, Program, widened

Labels = NDArray[np.int64]

LEAST_IMAGES = 20
CALIBRATE_SHARE = HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class Split:
    """Indices into the images."""

    train: Labels
    calibrate: Labels
    held_out: Labels


@dataclass(frozen=True)
class ExitRow:
    """One exit in the report. Accuracies and shares are of the held-out images."""

    name: str
    tap: str
    cost: float  # MACs up to the tap, as a share of the full network's
    before: float
    after: float
    share: float  # of the images, answered here
    temperature: float
    threshold: float
    enabled: bool


@dataclass(frozen=True)
class ExitReport:
    rows: list[ExitRow]
    measure: str  # "accuracy", or without labels "agreement" with the final exit
    full: float  # of the final exit alone
    early: float  # with early exits
    cost: float  # mean share of the full network's MACs, with early exits
    train: int  # images
    calibrate: int
    held_out: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train_exits(
    program: Program,
    images: Images,
    *,
    epochs: int = 60,
    lr: float = 0.01,
    batch: int = 256,
    seed: int = 0,
    max_drop: float = 0.01,
    final: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> ExitReport:
    """Train, calibrate and enable the exits of `program`; with `final`, its own classifier as well."""
    if not program.exits:
        raise PassError(f"{program.name} has no exits; run insert-exits before training them")
    if len(images) < LEAST_IMAGES:
        raise DataError(f"{images.name} has {len(images)} images; training exits needs at least {LEAST_IMAGES}")
    require_two_classes(images)
    tell = progress or (lambda what, done, total: None)

    heads = [read_head(program, exit) for exit in program.exits]
    projections = [read_projection(program, exit) for exit in program.exits]
    features = extract_features(program, images.pixels, device, tell)
    before = [head(projected(p, x)) for head, p, x in zip(heads, projections, features, strict=True)]
    teacher = before[-1]
    labels = np.full(len(images), -1, np.int64) if images.labels is None else images.labels
    guesses = teacher.argmax(1).numpy()
    split = split_images(np.where(labels >= 0, labels, guesses), seed)

    chosen = torch.from_numpy(split.train)
    lesson = Lesson(teacher[chosen], torch.from_numpy(labels)[chosen], epochs, lr, batch, seed)
    trained: list[Head] = []
    for position, (exit, head, x) in enumerate(zip(program.exits, heads, features, strict=True)):
        learn = partial(tell, f"training {exit.name}")
        if position == len(heads) - 1:
            new = standardise(head, x[chosen])
            new = train_head(new, x[chosen], lesson, learn) if final else new
        elif exit.projected:
            projections[position], new = train_bottleneck(x[chosen], exit.features, lesson, learn)
        else:
            new = train_head(standardise(blank(*head.weight.shape), x[chosen]), x[chosen], lesson, learn)
        trained.append(new)
    after = [head(projected(p, x)) for head, p, x in zip(trained, projections, features, strict=True)]

    temperatures, thresholds = _calibrate(program, after, labels, split.calibrate, max_drop)
    truth = labels if images.labels is not None else guesses
    report = _report(program, before, after, temperatures, thresholds, truth, images.labels is not None, split)
    levels = measure_levels(images.pixels)
    _commit(program, trained, projections, report)
    program.levels = levels
    if unnamed(program.classes):
        program.classes = list(images.class_names)  # so that a person's folders are matched by name from now on
    program.provenance["train_exits"] = {
        "data": images.name,
        "images": {"train": report.train, "calibrate": report.calibrate, "held_out": report.held_out},
        "labelled": int((labels >= 0).sum()),
        "epochs": epochs, "lr": lr, "batch": batch, "seed": seed, "max_drop": max_drop, "final": final,
        "measure": report.measure,
        "before": {row.name: round(row.before, 6) for row in report.rows},
        "after": {row.name: round(row.after, 6) for row in report.rows},
        "shares": {row.name: round(row.share, 6) for row in report.rows},
        "early": round(report.early, 6),
        "cost": round(report.cost, 6),
    }  # fmt: skip
    return report


# Heads in the program


def read_head(program: Program, exit: Exit) -> Head:
    """A copy of an exit's tensors, without spare outputs: those stay as they are."""
    known = len(program.classes)
    shift, scale, weight, bias = (program.tensor(f"{exit.name}.{part}").detach() for part in PARTS)
    return Head(shift.clone(), scale.clone(), weight[:, :known].clone(), bias[:known].clone())


def write_head(program: Program, exit: Exit, head: Head) -> None:
    """With the program's spare outputs."""
    weight, bias = widened(head.weight, head.bias, program.spare)
    for part, tensor in zip(PARTS, (head.shift, head.scale, weight, bias), strict=True):
        program.set_tensor(f"{exit.name}.{part}", tensor)


def read_projection(program: Program, exit: Exit) -> Projection | None:
    """A copy of a bottleneck's tensors; None of any other exit."""
    if not exit.projected:
        return None
    return Projection(
        *(program.tensor(f"{exit.name}_projection.{part}").detach().clone() for part in ("weight", "bias"))
    )


def _commit(program: Program, heads: list[Head], projections: list[Projection | None], report: ExitReport) -> None:
    for exit, head, projection, row in zip(program.exits, heads, projections, report.rows, strict=True):
        write_head(program, exit, head)
        if projection is not None:
            program.set_tensor(f"{exit.name}_projection.weight", projection.weight)
            program.set_tensor(f"{exit.name}_projection.bias", projection.bias)
        exit.temperature, exit.threshold, exit.enabled = row.temperature, row.threshold, row.enabled


# Splitting


def split_images(classes: Labels, seed: int) -> Split:
    """15 % to calibrate, 15 % held out, the rest to train on; every class is divided alike."""
    generator = np.random.default_rng(seed)
    parts: list[list[Labels]] = [[], [], []]
    for label in np.unique(classes):
        mine = generator.permutation(np.flatnonzero(classes == label))
        # rounding with a random offset: classes of one or two images do not all land in the same part
        calibrate = int(len(mine) * CALIBRATE_SHARE + generator.random())
        held_out = min(int(len(mine) * HELD_OUT_SHARE + generator.random()), len(mine) - calibrate)
        cuts = [len(mine) - calibrate - held_out, len(mine) - held_out]
        for part, indices in zip(parts, np.split(mine, cuts), strict=True):
            part.append(indices)
    split = Split(*(np.sort(np.concatenate(part)) for part in parts))
    if min(len(split.train), len(split.calibrate), len(split.held_out)) == 0:
        raise DataError(f"{len(classes)} images are too few to train, calibrate and measure on; add more")
    return split


# Measuring


def _calibrate(
    program: Program, logits: list[Tensor], labels: Labels, chosen: Labels, max_drop: float
) -> tuple[list[float], list[tuple[float, bool]]]:
    """Temperatures and thresholds. Without labels early exits are fitted to the final exit's answers."""
    arrays = [part.numpy()[chosen] for part in logits]
    known = labels[chosen]
    unlabelled = not (known >= 0).any()
    temperatures = [fit_temperature(z, arrays[-1].argmax(1) if unlabelled else known) for z in arrays[:-1]]
    temperatures.append(program.exits[-1].temperature if unlabelled else fit_temperature(arrays[-1], known))
    probabilities = [softmax(z, t) for z, t in zip(arrays, temperatures, strict=True)]
    return temperatures, fit_thresholds(probabilities, known, max_drop, worth(program))


def worth(program: Program) -> list[Worth]:
    """Per exit: MACs of the backbone and the final head that its answer saves, and those of its own head."""
    heads = [exit.features * (exit.projected + program.outputs) for exit in program.exits]
    full = program.exits[-1].macs + heads[-1]
    return [Worth(full - exit.macs, head) for exit, head in zip(program.exits, heads, strict=True)]


def _report(
    program: Program,
    before: list[Tensor],
    after: list[Tensor],
    temperatures: list[float],
    thresholds: list[tuple[float, bool]],
    truth: Labels,
    labelled: bool,
    split: Split,
) -> ExitReport:
    chosen = split.held_out[truth[split.held_out] >= 0]
    if len(chosen) == 0:
        chosen, truth, labelled = split.held_out, after[-1].argmax(1).numpy(), False

    def right(logits: Tensor) -> NDArray[np.bool_]:
        return np.asarray(logits.numpy()[chosen].argmax(1) == truth[chosen])

    remaining, correct, cost, rows = np.ones(len(chosen), bool), 0, 0.0, []
    for exit, old, new, temperature, (threshold, enabled) in zip(
        program.exits, before, after, temperatures, thresholds, strict=True
    ):
        sure = softmax(new.numpy()[chosen], temperature).max(1) >= threshold
        last = exit is program.exits[-1]
        taken = remaining if last else remaining & sure & enabled
        remaining = remaining & ~taken
        correct += int(right(new)[taken].sum())
        part = exit.macs / program.exits[-1].macs if program.exits[-1].macs else 1.0
        cost += part * float(taken.mean())
        rows.append(
            ExitRow(
                exit.name, exit.tap, part, float(right(old).mean()), float(right(new).mean()), float(taken.mean()),
                temperature, threshold, enabled,
            )
        )  # fmt: skip
    return ExitReport(
        rows, "accuracy" if labelled else "agreement", rows[-1].after, correct / len(chosen), cost,
        len(split.train), len(split.calibrate), len(split.held_out),
    )  # fmt: skip
