"""Heads of one candidate, trained side by side: each on its own images, all in one matrix product."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from perse_compile.personalise.learning import LABEL_WEIGHT, SOFTENING, WEIGHT_DECAY, Head, standardise

EPOCHS = 40
RATE, BATCH = 0.01, 256  # as train-exits


def train_side_by_side(
    features: Tensor, teacher: Tensor, labels: Tensor, member: Tensor, seed: int, epochs: int = EPOCHS
) -> list[Head]:
    """One head for each column of `member` [N,H], which says who learns from which image.

    As train-exits: from zero, from labels and from the network's own answers where those are right, with AdamW and a
    rate that falls as a cosine. Features are standardised by all images that are given, which asks no label.
    """
    count, heads = member.shape
    classes, width = teacher.shape[1], features.shape[1]
    blank = Head(torch.zeros(width), torch.ones(width), torch.zeros(width, classes), torch.zeros(classes))
    common = standardise(blank, features)
    x = (features - common.shift) * common.scale
    sure, guess = torch.softmax(teacher, 1).max(1)
    soft = torch.softmax(teacher / SOFTENING, 1)
    soft_weight = (1 - LABEL_WEIGHT) * sure * (guess == labels) * SOFTENING**2
    counted = member.float()
    weight = torch.zeros(width, heads * classes, requires_grad=True)
    bias = torch.zeros(heads * classes, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": WEIGHT_DECAY}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.randperm(count, generator=generator)
        for first in range(0, count, BATCH):
            part = order[first : first + BATCH]
            logits = torch.addmm(bias, x[part], weight).view(len(part), heads, classes)
            asked = labels[part].view(-1, 1, 1).expand(-1, heads, 1)
            hard = -F.log_softmax(logits, 2).gather(2, asked).squeeze(2)
            target = soft[part].unsqueeze(1)
            divergence = (torch.xlogy(target, target) - target * F.log_softmax(logits / SOFTENING, 2)).sum(2)
            each = LABEL_WEIGHT * hard + soft_weight[part].unsqueeze(1) * divergence
            mine = counted[part]
            loss = ((each * mine).sum(0) / mine.sum(0).clamp_min(1)).sum()  # heads do not meet: each has its own mean
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    weights = weight.detach().view(width, heads, classes)
    return [
        Head(common.shift, common.scale, weights[:, h].contiguous(), bias.detach().view(heads, classes)[h].clone())
        for h in range(heads)
    ]
