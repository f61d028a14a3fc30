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
UNSEEN = 0.25  # answers, half of them lost, that every curve of losses starts from
SLOPE_TRUST = 2.0  # in the slope that a calibrated exit has: -1
LEAST_DOUBT = 1e-6  # 1 - confidence, in single precision
ROUNDS = 50  # of Newton's method
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
    3. An answer is lost where the final exit is right and this one is not. A sample with label -1 counts as labelled
       with the final exit's top class. (The top class is the first of equals.)
    4. `loss_curve` tells from all samples of R how likely an answer is lost, by its confidence. t is good when it takes
       at least 4 samples, and of these a share of max_drop is expected to be lost at most.
    5. The threshold is the smallest good t and the exit is enabled. It is (1.0, False) and takes none when no t is
       good, or when, given `worth`, taken * saved <= |R| * asked: asking everyone costs more than it saves.

    The last exit is (1.0, True): it always answers.
    """
    tops = [np.argmax(p, -1) for p in probabilities]
    truth = np.where(labels >= 0, labels, tops[-1])
    right_finally = tops[-1] == truth
    remaining = np.ones(len(labels), bool)
    answers: list[tuple[float, bool]] = []
    for position, (probability, top) in enumerate(zip(probabilities[:-1], tops[:-1], strict=True)):
        confidence = probability.max(-1)
        lost = right_finally & (top != truth)
        threshold = _smallest_good(confidence[remaining], lost[remaining], max_drop)
        if threshold is not None and worth is not None:
            taken = int((remaining & (confidence >= threshold)).sum())
            if taken * worth[position].saved <= int(remaining.sum()) * worth[position].asked:
                threshold = None
        answers.append((1.0, False) if threshold is None else (threshold, True))
        if threshold is not None:
            remaining &= confidence < threshold
    return [*answers, (1.0, True)]


def loss_curve(confidence: Array, lost: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How likely each of N answers is lost, of its confidence [N] and of which were lost [N].

    Logistic regression in x = -log(1 - confidence), drawn towards the slope of a calibrated exit, whose error is
    1 - confidence. All answers have a say, not only those above a threshold: the few that are lost there would be a
    poor measure, and the best of many thresholds would look better than it is.
    """
    count = len(confidence)
    x = -np.log(np.maximum(1 - np.asarray(confidence, np.float64), LEAST_DOUBT))
    spread = x.std() + 1e-9
    x = np.stack([np.ones(count), (x - x.mean()) / spread], 1)
    seen = lost + UNSEEN / count / 2
    each = 1 + UNSEEN / count
    trust, aim = np.array([0, SLOPE_TRUST]), np.array([0, -spread])
    level = seen.sum() / (count + UNSEEN)
    line = np.array([math.log(level / (1 - level)), 0.0])
    for _ in range(ROUNDS):
        likely = 1 / (1 + np.exp(-x @ line))
        slope = x.T @ (each * likely - seen) + trust * (line - aim)
        bend = (x.T * (each * likely * (1 - likely))) @ x + np.diag(trust + 1e-9)
        step = np.clip(np.linalg.solve(bend, slope), -2, 2)
        line -= step
        if np.abs(step).sum() < 1e-7:
            break
    return np.asarray(1 / (1 + np.exp(-x @ line)), np.float64)


def _smallest_good(confidence: Array, lost: NDArray[np.bool_], max_drop: float) -> float | None:
    if not len(confidence):
        return None
    order = np.argsort(-confidence, kind="stable")
    confidence, losses = confidence[order], np.cumsum(loss_curve(confidence, lost)[order])
    taken = np.arange(1, len(confidence) + 1)
    whole = np.append(confidence[1:] < confidence[:-1], True)  # equal confidences go together
    good = whole & (taken >= FEWEST_ANSWERS) & (losses <= max_drop * taken + 1e-9)
    return float(confidence[np.flatnonzero(good)[-1]]) if good.any() else None
