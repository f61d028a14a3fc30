"""What every candidate answers on images that its head did not learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perse_compile.errors import DataError
from perse_compile.personalise.calibrate import fit_temperature, softmax
from perse_compile.personalise.train_exits import Head, standardise, train_head
from perse_compile.placement.split import FOLDS, Indices, Split
from perse_compile.program import Exit

EPOCHS = 40
RATE, BATCH = 0.01, 256  # as train-exits
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Answers:
    """Of every candidate on some images; the network's own classifier is the last row of `right`."""

    sure: NDArray[np.float64]  # [M,N] calibrated confidence
    right: NDArray[np.bool_]  # [M+1,N]


@dataclass(frozen=True)
class Records:
    """Heads that learnt from everything but the report's images, and answers that heads gave on unseen images."""

    heads: list[Head]
    temperatures: list[float]  # of the candidates, and of the network's own classifier
    search: Answers
    report: Answers


def record(
    exits: Sequence[Exit],
    features: Sequence[NDArray[np.floating]],
    final: Tensor,
    labels: Indices,
    split: Split,
    seed: int,
    tell: Tell,
    epochs: int = EPOCHS,
) -> Records:
    """Train a head at every candidate, once without each fold and once on all of them. Raises DataError.

    The answers of the search are those of heads without the image's fold, the report's those of the head on all folds.
    Temperatures are fitted to the former.
    """
    if not torch.isfinite(final).all():
        raise DataError("the network's own answers are not finite numbers; are its weights sound?")
    search, report = split.search, split.report
    classes = final.shape[1]
    heads, logits = [], [final.numpy()]
    done, turns = 0, len(features) * (FOLDS + 1)
    temperatures: list[float] = []
    sure: tuple[list[Any], list[Any]] = ([], [])  # of the search's images, of the report's
    right: tuple[list[Any], list[Any]] = ([], [])
    for exit, x in zip(exits, features, strict=False):
        if not np.isfinite(x).all():
            raise DataError(f"the features at {exit.tap} are not finite numbers; are the weights sound?")
        crossed = np.empty((len(labels), classes), np.float32)
        for fold in range(FOLDS + 1):
            chosen = split.without(fold) if fold < FOLDS else search
            head = _learn(exit, x, final, labels, chosen, classes, epochs, seed)
            judged = split.folds[fold] if fold < FOLDS else report
            crossed[judged] = head(torch.from_numpy(x[judged].astype(np.float32))).numpy()
            done += 1
            tell(done, turns)
        heads.append(head)
        logits.append(crossed)
        temperatures.append(fit_temperature(crossed[search], labels[search]))
        for part, images in enumerate((search, report)):
            sure[part].append(softmax(crossed[images], temperatures[-1]).max(1))
            right[part].append(crossed[images].argmax(1) == labels[images])
    temperatures.append(fit_temperature(logits[0][search], labels[search]))
    for part, images in enumerate((search, report)):
        right[part].append(logits[0][images].argmax(1) == labels[images])
    found = [Answers(np.array(sure[part]).reshape(len(heads), -1), np.array(right[part])) for part in (0, 1)]
    return Records(heads, temperatures, *found)


def _learn(
    exit: Exit,
    features: NDArray[np.floating],
    final: Tensor,
    labels: Indices,
    chosen: Indices,
    classes: int,
    epochs: int,
    seed: int,
) -> Head:
    """As train-exits does: standardised, from zero, from the labels and the network's own answers."""
    x = torch.from_numpy(features[chosen].astype(np.float32))
    count = exit.features
    blank = Head(torch.zeros(count), torch.ones(count), torch.zeros(count, classes), torch.zeros(classes))
    where = torch.from_numpy(chosen)
    return train_head(
        standardise(blank, x), x, final[where], torch.from_numpy(labels)[where], epochs, RATE, BATCH, seed,
        lambda done, total: None,
    )  # fmt: skip
