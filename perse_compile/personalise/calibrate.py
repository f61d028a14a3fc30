"""How sure is sure enough: one temperature per exit, and the confidence at which its answer is taken.

The device applies the same rules after personalising (runtime/measure.c).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

FEWEST_ANSWERS = 4  # that a threshold may rest on
TEMPERATURES = (0.05, 20.0)
GOLDEN = (math.sqrt(5) - 1) / 2
STEPS = 40  # of the golden-section search: narrows log T from 6 to 3e-8


def softmax(logits: Array, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities over the last dimension."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float64)


def negative_log_likelihood(logits: Array, labels: NDArray[np.int64], temperature: float) -> float:
    """Mean of -log p(label); logits [N,K]."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(-1, keepdims=True)
    chosen = scaled[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(scaled).sum(-1)) - chosen))


def fit_temperature(logits: Array, labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] with the smallest negative log-likelihood; logits [N,K].

    Golden-section search on log T (the likelihood is unimodal in T). Samples with label -1 do not count; with no
    labelled sample the answer is 1.
    """
    known = labels >= 0
    if not known.any():
        return 1.0
    logits, labels = logits[known], labels[known]

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, math.exp(log_temperature))

    low, high = (math.log(t) for t in TEMPERATURES)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


@dataclass(frozen=True)
class Worth:
    """MACs that an answer of an exit saves against going on to the end, and what asking the exit costs."""

    saved: float
    asked: float


def fit_thresholds(
    probabilities: Sequence[Array], labels: NDArray[np.int64], max_drop: float, worth: Sequence[Worth] | None = None
) -> list[tuple[float, bool]]:
    """(threshold, enabled) per exit, in cascade order; probabilities per exit [N,K], the final exit last.

    The rule, for every exit but the last (runtime/measure.c, fit_threshold, is the same, except that there a sample
    without a label does not count where others have one):

    1. R = the samples that no enabled earlier exit has taken.
    2. The confidence of a sample is the exit's greatest probability. The candidates for the threshold are the
       confidences in R; a candidate t takes the samples of R with confidence >= t.
    3. right = the exit's top class is the label. A sample with label -1 counts as labelled with the final exit's top
       class. (The top class is the first of equals.)
    4. t is good when it takes at least 4 samples, and
       (right answers of the final exit - right answers of this exit, both on the taken samples)
       <= max_drop * (number of taken samples) + 1e-9.
    5. The threshold is the smallest good t and the exit is enabled. It is (1.0, False) and takes none when no t is
       good, or when, given `worth`, taken * saved <= |R| * asked: asking everyone costs more than it saves.

    The last exit is (1.0, True): it always answers.

    The bound holds on these samples. On new ones the drop is a little larger, the more so the fewer samples there
    are, because the smallest good t is chosen after looking at their losses.
    """
    tops = [np.argmax(p, -1) for p in probabilities]
    truth = np.where(labels >= 0, labels, tops[-1])
    right_finally = (tops[-1] == truth).astype(np.int64)
    remaining = np.ones(len(labels), bool)
    answers: list[tuple[float, bool]] = []
    for position, (probability, top) in enumerate(zip(probabilities[:-1], tops[:-1], strict=True)):
        confidence = probability.max(-1)
        lost = right_finally - (top == truth)
        threshold = _smallest_good(confidence[remaining], lost[remaining], max_drop)
        if threshold is not None and worth is not None:
            taken = int((remaining & (confidence >= threshold)).sum())
            if taken * worth[position].saved <= int(remaining.sum()) * worth[position].asked:
                threshold = None
        answers.append((1.0, False) if threshold is None else (threshold, True))
        if threshold is not None:
            remaining &= confidence < threshold
    return [*answers, (1.0, True)]


def _smallest_good(confidence: Array, lost: NDArray[np.int64], max_drop: float) -> float | None:
    order = np.argsort(-confidence, kind="stable")
    confidence, losses = confidence[order], np.cumsum(lost[order])
    taken = np.arange(1, len(confidence) + 1)
    whole = np.append(confidence[1:] < confidence[:-1], True)[: len(confidence)]  # equal confidences go together
    good = whole & (taken >= FEWEST_ANSWERS) & (losses <= max_drop * taken + 1e-9)
    return float(confidence[np.flatnonzero(good)[-1]]) if good.any() else None
