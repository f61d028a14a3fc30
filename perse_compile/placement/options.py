"""The choices of the search: a candidate with a threshold from its grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perse_compile.placement.records import Answers


@dataclass(frozen=True)
class Options:
    """Every candidate with every threshold of its grid, candidates in order."""

    candidate: NDArray[np.int64]  # [O]
    threshold: NDArray[np.float64]  # [O]; 0 takes every image
    takes: NDArray[np.bool_]  # [O,N] which images it is sure of


def options(answers: Answers, grid: int) -> Options:
    """Thresholds that take 1/grid, 2/grid, ... of the search's images, the last takes all; each set of images once.

    A threshold lies in the middle between the last confidence it takes and the next, so that rounding on a device
    changes nothing.
    """
    rows: list[tuple[int, float, NDArray[np.bool_]]] = []
    for candidate, sure in enumerate(answers.sure[:-1]):
        order = np.sort(sure)[::-1]
        counts = sorted({round(len(order) * step / grid) for step in range(1, grid)} - {0, len(order)})
        limits = {(order[count - 1] + order[count]) / 2 for count in counts if order[count - 1] > order[count]}
        rows += [(candidate, float(limit), sure >= limit) for limit in sorted(limits, reverse=True)]
        rows.append((candidate, 0.0, np.ones(len(sure), bool)))
    candidates, thresholds, takes = zip(*rows, strict=True)
    return Options(np.array(candidates), np.array(thresholds), np.array(takes))
