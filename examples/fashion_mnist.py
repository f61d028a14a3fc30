"""Fashion-MNIST as Debian ships it, and how the examples divide it.

The backbone learns from 57,000 training images (train_fashion_mnist.py). It never sees the other 3,000, 300 per class:
`train-exits` learns from those. The 10,000 test images measure the backbone, and the users' images come from them.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
SEED = 20260
EXIT_IMAGES_PER_CLASS = 300


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of bytes: two zeros, type 8, number of dimensions, the dimensions big-endian, then the data."""
    with gzip.open(path) as file:
        data = file.read()
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes")
    dimensions = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(dimensions)).reshape([int(d) for d in dimensions])


def read(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N,28,28) and labels (N,) of "train" or "t10k"."""
    if not FOLDER.is_dir():
        sys.exit(f"{FOLDER} is missing; install it with: apt-get install dataset-fashion-mnist")
    images = read_idx(FOLDER / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(FOLDER / f"{split}-labels-idx1-ubyte.gz")
    return images, labels.astype(np.int64)


def split_training(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training images that the backbone learns from, and of those kept for the exits."""
    generator = np.random.default_rng(SEED)
    kept = [
        generator.choice(np.flatnonzero(labels == label), EXIT_IMAGES_PER_CLASS, replace=False)
        for label in range(len(CLASSES))
    ]
    exits = np.sort(np.concatenate(kept))
    return np.setdiff1d(np.arange(len(labels)), exits), exits
