"""How one exit learns on the host, from labels and from the final exit, on features that are computed already.

Heads are one linear layer on standardised features. A bottleneck learns its projection with its head; on the device
the projection is part of the backbone and only the head goes on learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from perse_compile import ops
from perse_compile.passes.insert_exits import projection as random_projection

PARTS = ("shift", "scale", "weight", "bias")  # of a head
LABEL_WEIGHT = 0.5  # of a labelled sample's label; the rest is the teacher's
SOFTENING = 2.0  # temperature of the distillation
WEIGHT_DECAY = 1e-2
SPREAD_FLOOR = 0.1  # of the mean spread: a feature that hardly moved here must not explode elsewhere
Tell = Callable[[int, int], None]  # epochs done, and of how many


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
class Projection:
    """Of a bottleneck: what its head reads of the means."""

    weight: Tensor  # [F, means]
    bias: Tensor  # [F]

    def __call__(self, means: Tensor) -> Tensor:
        return ops.relu(ops.linear(means, self.weight, self.bias))


@dataclass(frozen=True)
class Lesson:
    """What N images teach, and how long."""

    teacher: Tensor  # [N,K] logits
    labels: Tensor  # [N], -1 = none
    epochs: int
    lr: float
    batch: int
    seed: int


def blank(features: int, classes: int) -> Head:
    """One that answers everything alike."""
    return Head(torch.zeros(features), torch.ones(features), torch.zeros(features, classes), torch.zeros(classes))


def projected(projection: Projection | None, means: Tensor) -> Tensor:
    """What the head reads."""
    return means if projection is None else projection(means)


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


def train_head(head: Head, features: Tensor, lesson: Lesson, tell: Tell) -> Head:
    """Weight and bias learn; shift and scale stay."""
    with one_thread():
        x = (features - head.shift) * head.scale
        weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
        _learn(lambda part: x[part] @ weight + bias, [weight], [bias], lesson, tell)
        return Head(head.shift, head.scale, weight.detach(), bias.detach())


def train_bottleneck(means: Tensor, width: int, lesson: Lesson, tell: Tell) -> tuple[Projection, Head]:
    """Projection and head from the start: the one random, the other zero, on standardised means.

    The standardisation is then part of the projection, and the head standardises what that gives.
    """
    count, classes = means.shape[1], lesson.teacher.shape[1]
    outer = standardise(blank(count, classes), means)
    start = random_projection(count, width, torch.Generator().manual_seed(lesson.seed)).t().contiguous()
    with one_thread():
        x = (means - outer.shift) * outer.scale
        inner, offset = start.requires_grad_(), torch.zeros(width, requires_grad=True)
        weight, bias = torch.zeros(width, classes, requires_grad=True), torch.zeros(classes, requires_grad=True)
        _learn(
            lambda part: torch.relu(x[part] @ inner + offset) @ weight + bias,
            [inner, weight], [offset, bias], lesson, tell,
        )  # fmt: skip
    slope = outer.scale.double().unsqueeze(1) * inner.detach().double()
    offset = offset.detach().double() - outer.shift.double() @ slope
    projection = Projection(slope.t().contiguous().float(), offset.float())
    head = replace(blank(width, classes), weight=weight.detach(), bias=bias.detach())
    return projection, standardise(head, projection(means))


def _learn(
    logits_of: Callable[[Tensor], Tensor], matrices: list[Tensor], biases: list[Tensor], lesson: Lesson, tell: Tell
) -> None:
    """In place, by AdamW; `logits_of` takes indices. Per sample a*CE + (1-a)*w*T^2*KL(teacher || exit).

    w is the teacher's confidence, and 0 where the label says that the teacher is wrong.
    """
    teacher, labels, epochs, lr = lesson.teacher, lesson.labels, lesson.epochs, lesson.lr
    sure, guess = torch.softmax(teacher, 1).max(1)
    soft = torch.softmax(teacher / SOFTENING, 1)
    labelled = labels >= 0
    hard_weight = LABEL_WEIGHT * labelled
    soft_weight = (1 - hard_weight) * sure * (~labelled | (guess == labels)) * SOFTENING**2
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    generator = torch.Generator().manual_seed(lesson.seed)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.randperm(len(labels), generator=generator)
        for part in torch.split(order, lesson.batch):
            logits = logits_of(part)
            hard = F.cross_entropy(logits, labels[part].clamp_min(0), reduction="none")
            divergence = F.kl_div(F.log_softmax(logits / SOFTENING, 1), soft[part], reduction="none").sum(1)
            loss = (hard_weight[part] * hard + soft_weight[part] * divergence).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        tell(epoch + 1, epochs)


@contextmanager
def one_thread() -> Iterator[None]:
    """Heads are small: more threads only wait for each other, the more so on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
