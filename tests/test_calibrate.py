"""Temperatures and thresholds: the rules that the device repeats."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from perse_compile.personalise.calibrate import (
    Worth,
    fit_temperature,
    fit_thresholds,
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


def test_threshold_is_the_smallest_that_loses_nothing() -> None:
    labels = np.zeros(8, np.int64)
    early = two_classes([0, 0, 0, 0, 0, 1, 0, 1], [0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65])
    final = two_classes([0] * 8, [0.9] * 8)
    assert fit_thresholds([early, final], labels, 0.0) == [(0.8, True), (1.0, True)]
    assert fit_thresholds([early, final], labels, 1 / 7) == [(0.7, True), (1.0, True)]
    assert fit_thresholds([early, final], labels, 0.25) == [(0.65, True), (1.0, True)]


def test_a_wrong_final_exit_leaves_room() -> None:
    labels = np.zeros(8, np.int64)
    early = two_classes([0, 0, 0, 0, 1, 1, 0, 1], [0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65])
    final = two_classes([1, 0, 0, 0, 0, 0, 0, 1], [0.9] * 8)
    assert fit_thresholds([early, final], labels, 0.0)[0] == (0.8, True)  # one gained, one lost


def test_an_exit_that_cannot_help_is_disabled() -> None:
    labels = np.zeros(8, np.int64)
    bad, final = two_classes([1] * 8, [0.9] * 8), two_classes([0] * 8, [0.9] * 8)
    assert fit_thresholds([bad, final], labels, 0.1) == [(1.0, False), (1.0, True)]
    few = two_classes([0, 0, 0, 1, 1, 1, 1, 1], [0.99, 0.98, 0.97, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert fit_thresholds([few, final], labels, 0.0)[0] == (1.0, False)  # three are fewer than four


def test_ties_go_together() -> None:
    labels = np.zeros(8, np.int64)
    early = two_classes([0, 0, 0, 0, 0, 1, 0, 0], [0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.7, 0.6])
    assert fit_thresholds([early, two_classes([0] * 8, [0.9] * 8)], labels, 0.0)[0] == (0.9, True)


def test_later_exits_see_what_is_left() -> None:
    labels = np.zeros(10, np.int64)
    first = two_classes([0] * 5 + [1] * 5, [0.9] * 5 + [0.6] * 5)
    second = two_classes([1] * 5 + [0] * 5, [0.99] * 5 + [0.7] * 5)  # wrong where the first has answered
    final = two_classes([0] * 10, [0.8] * 10)
    assert fit_thresholds([first, second, final], labels, 0.0) == [(0.9, True), (0.7, True), (1.0, True)]
    everything = [two_classes([0] * 10, [0.9] * 10), second, final]
    assert fit_thresholds(everything, labels, 0.0) == [(0.9, True), (1.0, False), (1.0, True)]


def test_without_labels_the_final_exit_is_right() -> None:
    unknown = np.full(8, -1)
    early = two_classes([0, 1, 0, 1, 0, 1, 0, 1], [0.99, 0.98, 0.97, 0.96, 0.6, 0.6, 0.6, 0.6])
    final = two_classes([0, 1, 0, 1, 1, 0, 1, 0], [0.9] * 8)
    assert fit_thresholds([early, final], unknown, 0.0) == [(0.96, True), (1.0, True)]


def test_the_drop_is_kept() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, 2000)
    exits = []
    for quality in (3.0, 4.0, 5.0):
        exits.append(softmax(quality * np.eye(4)[labels] + generator.normal(0, 1, (2000, 4))))
    answer = fit_thresholds(exits, labels, 0.02)
    remaining, right = np.ones(2000, bool), 0
    for probabilities, (threshold, enabled) in zip(exits, answer, strict=True):
        last = probabilities is exits[-1]
        taken = remaining & enabled & (last | (probabilities.max(1) >= threshold))
        right += int((probabilities.argmax(1) == labels)[taken].sum())
        remaining &= ~taken
    assert answer[0][1] and answer[1][1]
    assert right / 2000 >= (exits[-1].argmax(1) == labels).mean() - 0.02


def test_an_exit_that_costs_more_than_it_saves_is_disabled() -> None:
    labels = np.zeros(8, np.int64)
    early = two_classes([0] * 4 + [1] * 4, [0.99, 0.98, 0.97, 0.96, 0.6, 0.6, 0.6, 0.6])  # takes 4 of 8
    exits = [early, two_classes([0] * 8, [0.9] * 8)]
    assert fit_thresholds(exits, labels, 0.0, [Worth(100, 49), Worth(0, 0)])[0] == (0.96, True)
    assert fit_thresholds(exits, labels, 0.0, [Worth(100, 50), Worth(0, 0)])[0] == (1.0, False)


def test_no_samples() -> None:
    nothing = np.zeros((0, 2))
    assert fit_thresholds([nothing, nothing], np.zeros(0, np.int64), 0.1) == [(1.0, False), (1.0, True)]
