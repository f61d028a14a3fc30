"""Temperatures and thresholds: the rules that the device repeats."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from perse_compile.personalise.calibrate import (
    SLOPE_TRUST,
    UNSEEN,
    Worth,
    fit_temperature,
    fit_thresholds,
    loss_curve,
    negative_log_likelihood,
    softmax,
)


def drawn(temperature: float, samples: int = 4000, classes: int = 5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits whose labels follow softmax(logits / temperature)."""
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 3, (samples, classes))
    labels = (softmax(logits, temperature).cumsum(1) > generator.random((samples, 1))).argmax(1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.08)


def test_temperature_is_the_minimum() -> None:
    logits, labels = drawn(2.0, samples=300)
    fitted = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    losses = [negative_log_likelihood(logits, labels, t) for t in grid]
    assert fitted == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    assert negative_log_likelihood(logits, labels, fitted) <= min(losses) + 1e-12


def test_temperature_stays_in_its_bounds() -> None:
    perfect = 10 * np.eye(3)
    assert fit_temperature(perfect, np.arange(3)) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(perfect, np.array([1, 2, 0])) == pytest.approx(20, rel=1e-3)
    assert np.isfinite(negative_log_likelihood(1e4 * perfect, np.arange(3), 0.05))


def test_temperature_without_labels() -> None:
    logits, labels = drawn(2.0, samples=300)
    assert fit_temperature(logits, np.full(300, -1)) == 1.0
    half = np.where(np.arange(300) < 150, labels, -1)
    assert fit_temperature(logits, half) == fit_temperature(logits[:150], labels[:150])


def two_classes(top: list[int], sure: list[float]) -> NDArray[np.float64]:
    """Probabilities with the given top class and confidence (over 1/2)."""
    confidence = np.array(sure)
    return np.stack([np.where(np.array(top) == k, confidence, 1 - confidence) for k in range(2)], 1)


def cascade(samples: int, *, seed: int = 3) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
    """Probabilities of three exits, each better than the one before, and the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, samples)
    right = np.eye(4)[labels]
    return [softmax(quality * right + generator.normal(0, 1, (samples, 4))) for quality in (3.0, 4.0, 5.0)], labels


def loss_of(line: NDArray[np.float64], x: NDArray[np.float64], lost: NDArray[np.bool_]) -> float:
    """What `loss_curve` makes smallest, written down anew: log-odds line[0] + line[1] * x."""
    odds = line[0] + line[1] * x
    share = UNSEEN / len(x)
    seen = np.where(lost, 1, 0) + share / 2
    likelihood = (np.logaddexp(0, odds) * (1 + share) - seen * odds).sum()
    return float(likelihood + SLOPE_TRUST / 2 * ((line[1] + 1) * x.std()) ** 2)


def test_the_curve_of_losses_is_the_minimum() -> None:
    confidence = np.random.default_rng(5).uniform(0.3, 0.999, 400)
    lost = np.random.default_rng(6).random(400) < 0.5 * (1 - confidence)
    likely, x = loss_curve(confidence, lost), -np.log(1 - confidence)
    odds = np.log(likely / (1 - likely))
    slope = np.ptp(odds) / np.ptp(x) * np.sign(np.corrcoef(odds, x)[0, 1])
    line = np.array([odds[0] - slope * x[0], slope])
    np.testing.assert_allclose(odds, line[0] + line[1] * x, atol=1e-6)
    least = loss_of(line, x, lost)
    for step in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01], [0.01, -0.01]):
        assert loss_of(line + step, x, lost) > least


def test_the_curve_finds_what_is_so() -> None:
    confidence = np.random.default_rng(5).uniform(0.3, 0.999, 400_000)
    truth = 1 / (1 + np.e / (1 - confidence))  # slope -1: a calibrated exit that is nearly as good as the final one
    likely = loss_curve(confidence, np.random.default_rng(6).random(400_000) < truth)
    for low in (0.3, 0.5, 0.7, 0.9):
        here = (confidence >= low) & (confidence < low + 0.1)
        assert likely[here].mean() == pytest.approx(truth[here].mean(), rel=0.05)


def test_few_samples_are_no_proof() -> None:
    sure = np.full(20, 0.9)
    nothing_lost = np.zeros(20, bool)
    assert loss_curve(sure, nothing_lost).mean() == pytest.approx(UNSEEN / 2 / (20 + UNSEEN))
    assert loss_curve(np.full(2000, 0.9), np.zeros(2000, bool)).mean() < 1e-4


@pytest.mark.parametrize("max_drop", [0.005, 0.02, 0.1])
def test_threshold_is_the_smallest_that_is_good(max_drop: float) -> None:
    exits, labels = cascade(600)
    confidence = exits[0].max(1)
    tops = [each.argmax(1) for each in exits]
    likely = loss_curve(confidence, (tops[-1] == labels) & (tops[0] != labels))
    [(threshold, enabled), *_] = fit_thresholds(exits, labels, max_drop)
    good = [t for t in confidence if (confidence >= t).sum() >= 4 and likely[confidence >= t].mean() <= max_drop]
    assert enabled and threshold == min(good)


def test_nothing_or_all_may_be_lost() -> None:
    exits, labels = cascade(300)
    assert fit_thresholds(exits, labels, 0.0) == [(1.0, False), (1.0, False), (1.0, True)]
    assert fit_thresholds(exits, labels, 1.0)[0] == (exits[0].max(1).min(), True)


def test_an_exit_that_cannot_help_is_disabled() -> None:
    labels = np.zeros(8, np.int64)
    bad, final = two_classes([1] * 8, [0.9] * 8), two_classes([0] * 8, [0.9] * 8)
    assert fit_thresholds([bad, final], labels, 0.1) == [(1.0, False), (1.0, True)]
    three = two_classes([0] * 3, [0.99] * 3)
    assert fit_thresholds([three, three], labels[:3], 0.5)[0] == (1.0, False)  # fewer than four


def test_what_the_final_exit_gets_wrong_is_not_lost() -> None:
    exits, labels = cascade(400)
    wrong = np.where(labels == 0, 1, labels)  # the final exit answers 0, and cannot be right
    strict, loose = (fit_thresholds(exits, each, 0.02)[0][0] for each in (labels, wrong))
    assert loose < strict


def test_ties_go_together() -> None:
    exits, labels = cascade(400)
    early = np.round(exits[0], 1) + np.array([1e-3, 0, 0, 0])  # the first of equals stays the first
    [(threshold, enabled), *_] = fit_thresholds([early, exits[-1]], labels, 0.03)
    likely = loss_curve(early.max(1), (exits[-1].argmax(1) == labels) & (early.argmax(1) != labels))
    assert enabled and likely[early.max(1) >= threshold].mean() <= 0.03


def test_later_exits_see_what_is_left() -> None:
    exits, labels = cascade(800)
    [(first, _), second, _] = fit_thresholds(exits, labels, 0.02)
    left = exits[0].max(1) < first
    assert second == fit_thresholds([exits[1][left], exits[2][left]], labels[left], 0.02)[0]
    everything = [np.tile([0.97, 0.01, 0.01, 0.01], (800, 1)), exits[1], exits[2]]
    assert fit_thresholds(everything, np.zeros(800, np.int64), 1.0)[:2] == [(0.97, True), (1.0, False)]


def test_without_labels_the_final_exit_is_right() -> None:
    exits, _ = cascade(400)
    answers = exits[-1].argmax(1)
    assert fit_thresholds(exits, np.full(400, -1), 0.02) == fit_thresholds(exits, answers, 0.02)


def test_the_drop_is_kept_on_new_samples() -> None:
    """On average: thresholds of 300 samples, tried on 2000 others."""
    drops = []
    for seed in range(20):
        exits, labels = cascade(2300, seed=seed)
        answer = fit_thresholds([each[:300] for each in exits], labels[:300], 0.02)
        exits, labels = [each[300:] for each in exits], labels[300:]
        remaining, right = np.ones(2000, bool), 0
        for probabilities, (threshold, enabled) in zip(exits, answer, strict=True):
            last = probabilities is exits[-1]
            taken = remaining & enabled & (last | (probabilities.max(1) >= threshold))
            right += int((probabilities.argmax(1) == labels)[taken].sum())
            remaining &= ~taken
        assert answer[0][1] and answer[1][1]
        drops.append((exits[-1].argmax(1) == labels).mean() - right / 2000)
    assert np.mean(drops) <= 0.02 and np.quantile(drops, 0.9) <= 0.025


def test_an_exit_that_costs_more_than_it_saves_is_disabled() -> None:
    exits, labels = cascade(400)
    threshold, _ = fit_thresholds(exits[1:], labels, 0.003)[0]
    share = (exits[1].max(1) >= threshold).mean()
    assert 0.2 < share < 1
    for asked, enabled in ((0.99, True), (1.01, False)):
        found = fit_thresholds(exits[1:], labels, 0.003, [Worth(100, 100 * share * asked), Worth(0, 0)])[0]
        assert found == ((threshold, True) if enabled else (1.0, False))


def test_no_samples() -> None:
    nothing = np.zeros((0, 2))
    assert fit_thresholds([nothing, nothing], np.zeros(0, np.int64), 0.1) == [(1.0, False), (1.0, True)]
