"""What one person's test images say of some heads, in numbers that can be added up over people."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from perse_compile.study.watch import Observation

BINS = 15  # of confidence
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.01)  # of the curve; the last: nobody


class Figures(TypedDict):
    """Of one user with some heads."""

    images: int
    accuracy: float  # of the first confident exit
    ms: float  # mean until then
    full_ms: float  # of the full network
    exits: list[dict[str, Any]]  # accuracy, share of images, bins of confidence: images, sum of confidence, right
    curve: list[list[float]]  # one threshold for all exits: mean milliseconds, accuracy


def figures(seen: Observation) -> Figures:
    right = seen.labels == seen.truth[:, None]
    until = np.median(seen.until, 0)
    exits = [
        {
            "accuracy": float(right[:, exit].mean()),
            "share": float((seen.taken == exit).mean()),
            "bins": _bins(seen.confidence[:, exit], right[:, exit]),
        }
        for exit in range(right.shape[1])
    ]
    return {
        "images": len(seen.truth),
        "accuracy": float((seen.answers == seen.truth).mean()),
        "ms": _mean_ms(seen),
        "full_ms": float(np.median(seen.full_ms)),
        "exits": exits,
        "curve": [_at(seen, right, until, threshold) for threshold in THRESHOLDS],
    }


def calibration_error(bins: NDArray[np.float64]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over bins [B,3], weighted by images.

    Few images make it greater than it is: about 0.04 for 150 that are perfectly calibrated. Bins can be added up.
    """
    images, confidence, right = bins.T
    return float(np.abs(confidence - right).sum() / images.sum())


def _mean_ms(seen: Observation) -> float:
    """Of medians per exit, weighted by its share: one image that waited for another process does not count."""
    exits, counts = np.unique(seen.taken, return_counts=True)
    medians = [float(np.median(seen.ms[seen.taken == exit])) for exit in exits]
    return float(np.average(medians, weights=counts))


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[list[float]]:
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bin_of, weights, BINS) for weights in (np.ones(len(bin_of)), confidence, right)]
    return [[float(value) for value in row] for row in np.stack(sums, 1)]


def _at(seen: Observation, right: NDArray[np.bool_], until: NDArray[np.float64], threshold: float) -> list[float]:
    sure = seen.confidence >= threshold
    sure[:, -1] = True
    taken = sure.argmax(1)
    return [float(until[taken].mean()), float(right[np.arange(len(taken)), taken].mean())]
