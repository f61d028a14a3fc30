"""Levels: the brightness, contrast and colour cast of a set of images, as two numbers per channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Levels = list[list[float]]  # [C][2]: low and high end, in gray levels
CHUNK = 256  # images sorted at a time


def measure_levels(pixels: NDArray[np.uint8]) -> Levels:
    """uint8 [N,H,W,C] -> per channel the means over images of two quantiles of the image's pixels.

    They are the least values that at least 1/20, and 19/20, of the pixels do not exceed, as in runtime/levels.c.
    """
    count, channels = len(pixels), pixels.shape[3]
    flat = pixels.reshape(count, -1, channels)
    ranks = [-(-flat.shape[1] * share // 20) - 1 for share in (1, 19)]
    sums = np.zeros((2, channels), np.int64)
    for start in range(0, count, CHUNK):
        ordered = np.partition(flat[start : start + CHUNK], ranks, axis=1)
        sums += ordered[:, ranks].sum(0, dtype=np.int64)
    means: Levels = np.float32(sums.T / count).tolist()
    return means
