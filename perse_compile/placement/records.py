"""What every candidate answers on images that its head did not learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perse_compile.errors import DataError
from perse_compile.personalise.calibrate import fit_temperature, softmax
from perse_compile.personalise.learning import Head
from perse_compile.placement.heads import EPOCHS, train_side_by_side
from perse_compile.placement.parallel import for_each
from perse_compile.placement.split import FOLDS, Indices, Split
from perse_compile.program import Exit

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Answers:
    """Of every candidate on some images, and of the network's own classifier in the last row."""

    sure: NDArray[np.float64]  # [M+1,N] calibrated confidence
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
    """Train heads at every candidate: one without each fold, and one on all of them. Raises DataError.

    The answers of the search are those of the head without the image's fold, the report's those of the head on all
    folds. Temperatures are fitted to the former.
    """
    for what, values in (("the network's own answers", final.numpy()), *_named(exits, features)):
        if not np.isfinite(values).all():
            raise DataError(f"{what} are not finite numbers; are the weights sound?")
    search = split.search
    member = np.ones((len(search), FOLDS + 1), bool)  # who learns from which image of the search; the last from all
    for fold, images in enumerate(split.folds):
        member[:, fold] = ~np.isin(search, images)

    def learn(x: NDArray[np.floating]) -> tuple[Head, NDArray[np.float32]]:
        """The head that all images of the search trained, and logits [N,K] of heads that did not see the image."""
        seen = torch.from_numpy(x[search].astype(np.float32))
        chosen, known = torch.from_numpy(search), torch.from_numpy(labels[search])
        heads = train_side_by_side(seen, final[chosen], known, torch.from_numpy(member), seed, epochs)
        logits = np.empty((len(labels), final.shape[1]), np.float32)
        for head, images in zip(heads, (*split.folds, split.report), strict=True):
            logits[images] = head(torch.from_numpy(x[images].astype(np.float32))).numpy()
        return heads[-1], logits

    learnt = for_each(learn, features, tell)
    heads, logits = [head for head, _ in learnt], [*(answers for _, answers in learnt), final.numpy()]
    temperatures = [fit_temperature(z[search], labels[search]) for z in logits]
    parts = []
    for images in (search, split.report):
        sure = [softmax(z[images], t).max(1) for z, t in zip(logits, temperatures, strict=True)]
        parts.append(Answers(np.array(sure), np.array([z[images].argmax(1) == labels[images] for z in logits])))
    return Records(heads, temperatures, *parts)


def _named(exits: Sequence[Exit], features: Sequence[NDArray[np.floating]]) -> list[tuple[str, NDArray[np.floating]]]:
    return [(f"features at {exit.tap}", x) for exit, x in zip(exits, features, strict=False)]
