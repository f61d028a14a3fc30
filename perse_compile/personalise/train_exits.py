"""Train a program's exits on the host: the backbone runs once per image, the heads learn from what it left.

1. features: the pooled features of every exit, from the frozen backbone, cached
2. split: train, calibrate and held-out images, disjoint, the same share of every class in each
3. heads: standardised, then learnt from the labels and from the final exit (soft targets, docs/method.md)
4. calibrate: a temperature for every exit, thresholds for the stated drop of accuracy (calibrate.py)
5. commit: the program changes only now, and only its heads and what it knows of the images' levels (levels.py); an
   interrupted training leaves it as it was
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

from perse_compile import ops
from perse_compile.errors import DataError, PassError
from perse_compile.personalise.calibrate import Worth, fit_temperature, fit_thresholds, softmax
from perse_compile.personalise.data import Images, require_two_classes, unnamed
from perse_compile.personalise.levels import measure_levels
from perse_compile.program import Exit, InputSpec, Program, widened

Labels = NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # what is being done, done, total

PARTS = ("shift", "scale", "weight", "bias")  # of a head
LEAST_IMAGES = 20
CALIBRATE_SHARE = HELD_OUT_SHARE = 0.15
CHUNK = 64  # images per run of the backbone
LABEL_WEIGHT = 0.5  # of a labelled sample's label; the rest is the teacher's
SOFTENING = 2.0  # temperature of the distillation
WEIGHT_DECAY = 1e-2
SPREAD_FLOOR = 0.1  # of the mean spread: a feature that hardly moved here must not explode elsewhere


@dataclass(frozen=True)
class Head:
    """The four tensors of ops.head."""

    shift: Tensor  # [F]
    scale: Tensor  # [F]
    weight: Tensor  # [F,K]
    bias: Tensor  # [K]

    def __call__(self, features: Tensor) -> Tensor:
        return ops.head(features, self.shift, self.scale, self.weight, self.bias)


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
    features = extract_features(program, images.pixels, device, tell)
    before = [head(x) for head, x in zip(heads, features, strict=True)]
    teacher = before[-1]
    labels = np.full(len(images), -1, np.int64) if images.labels is None else images.labels
    guesses = teacher.argmax(1).numpy()
    split = split_images(np.where(labels >= 0, labels, guesses), seed)

    trained: list[Head] = []
    for position, (exit, head, x) in enumerate(zip(program.exits, heads, features, strict=True)):
        last = position == len(heads) - 1
        new = standardise(head, x[split.train])
        if not last or final:
            chosen = torch.from_numpy(split.train)
            start = new if last else Head(new.shift, new.scale, *(torch.zeros_like(t) for t in (new.weight, new.bias)))
            what = f"training {exit.name}"
            new = train_head(
                start, x[chosen], teacher[chosen], torch.from_numpy(labels)[chosen], epochs, lr, batch, seed,
                lambda done, total, what=what: tell(what, done, total),  # type: ignore[misc]
            )  # fmt: skip
        trained.append(new)
    after = [head(x) for head, x in zip(trained, features, strict=True)]

    temperatures, thresholds = _calibrate(program, after, labels, split.calibrate, max_drop)
    truth = labels if images.labels is not None else guesses
    report = _report(program, before, after, temperatures, thresholds, truth, images.labels is not None, split)
    levels = measure_levels(images.pixels)
    _commit(program, trained, report)
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


def head_nodes(program: Program) -> dict[str, fx.Node]:
    """The ops.head node of every exit, by the name that its tensors carry."""
    found = {}
    for node in program.module.graph.nodes:
        if node.op == "call_function" and node.target is ops.head:
            weight = node.args[3]
            found[str(weight.target).rpartition(".")[0]] = node
    return found


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


def _commit(program: Program, heads: list[Head], report: ExitReport) -> None:
    for exit, head, row in zip(program.exits, heads, report.rows, strict=True):
        write_head(program, exit, head)
        exit.temperature, exit.threshold, exit.enabled = row.temperature, row.threshold, row.enabled


# Features


def extract_features(program: Program, pixels: NDArray[np.uint8], device: str, tell: Progress) -> list[Tensor]:
    """Pooled features of every exit, [N,F] each, on the CPU; the backbone runs once per image."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    backbone = feature_module(program)
    if place.type != "cpu":
        backbone = copy.deepcopy(backbone).to(place)  # the program's own tensors stay where they are
    found: list[list[Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(pixels), CHUNK):
            x = normalise(torch.from_numpy(pixels[start : start + CHUNK]).to(place), program.input)
            found.append([features.cpu() for features in backbone(x)])
            tell("features", min(start + CHUNK, len(pixels)), len(pixels))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def normalise(pixels: Tensor, spec: InputSpec) -> Tensor:
    """uint8 (N,H,W,C) -> the network's input, (N,C,H,W) in channels-last order."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (spec.mean, spec.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def feature_module(program: Program) -> fx.GraphModule:
    """The program with every head's features as its outputs."""
    heads = head_nodes(program)
    missing = [exit.name for exit in program.exits if exit.name not in heads]
    if missing:
        raise PassError(f"{program.name} has no head for {', '.join(missing)}; run insert-exits again")
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.module.graph, copies)
    graph.output(tuple(copies[heads[exit.name].all_input_nodes[0]] for exit in program.exits))
    graph.eliminate_dead_code()
    return fx.GraphModule(program.module, graph).eval()


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


# Learning


def standardise(head: Head, features: Tensor) -> Head:
    """The same function, with the mean and spread of `features` as shift and scale."""
    x = features.double()
    mean, spread = x.mean(0), x.std(0, correction=0)
    floor = SPREAD_FLOOR * float(spread.square().mean().sqrt())
    scale = 1 / spread.clamp_min(floor) if floor > 0 else torch.ones_like(spread)
    slope = head.scale.double().unsqueeze(1) * head.weight.double()  # of the logits by the raw features
    shift, scale = mean.float(), scale.float()
    bias = head.bias.double() + (shift.double() - head.shift.double()) @ slope
    return Head(shift, scale, (slope / scale.double().unsqueeze(1)).float(), bias.float())


def train_head(
    head: Head,
    features: Tensor,
    teacher: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    batch: int,
    seed: int,
    tell: Callable[[int, int], None],
) -> Head:
    """Learn from labels (-1 = none) and the teacher's logits; per sample a*CE + (1-a)*w*T^2*KL(teacher || exit).

    w is the teacher's confidence, and 0 where the label says that the teacher is wrong. Not the shift and scale.
    """
    with one_thread():
        x = (features - head.shift) * head.scale
        sure, guess = torch.softmax(teacher, 1).max(1)
        soft = torch.softmax(teacher / SOFTENING, 1)
        labelled = labels >= 0
        hard_weight = LABEL_WEIGHT * labelled
        soft_weight = (1 - hard_weight) * sure * (~labelled | (guess == labels)) * SOFTENING**2
        weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
        groups = [{"params": [weight], "weight_decay": WEIGHT_DECAY}, {"params": [bias], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=lr)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            order = torch.randperm(len(x), generator=generator)
            for first in range(0, len(x), batch):
                part = order[first : first + batch]
                logits = x[part] @ weight + bias
                hard = F.cross_entropy(logits, labels[part].clamp_min(0), reduction="none")
                divergence = F.kl_div(F.log_softmax(logits / SOFTENING, 1), soft[part], reduction="none").sum(1)
                loss = (hard_weight[part] * hard + soft_weight[part] * divergence).mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            tell(epoch + 1, epochs)
        return Head(head.shift, head.scale, weight.detach(), bias.detach())


@contextmanager
def one_thread() -> Iterator[None]:
    """Heads are small: more threads only wait for each other, the more so on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    heads = [exit.features * program.outputs for exit in program.exits]
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
