"""Which images the search may see, which only the report, and who judges whose head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perse_compile.errors import DataError
from perse_compile.personalise.data import Images, require_two_classes

Indices = NDArray[np.int64]
FEWEST = 60  # labelled images
REPORT_SHARE = 0.2
FOLDS = 4


@dataclass(frozen=True)
class Split:
    """Indices into the labelled images. A head is trained without one fold and answers for that fold only."""

    folds: list[Indices]  # disjoint; together what the search sees
    report: Indices  # neither trains a head nor takes part in the search

    @property
    def search(self) -> Indices:
        return np.sort(np.concatenate(self.folds))

    def without(self, fold: int) -> Indices:
        """What trains the head that answers for a fold."""
        return np.sort(np.concatenate([part for i, part in enumerate(self.folds) if i != fold]))


def labelled(images: Images) -> Indices:
    """The images that can be used. Raises DataError when there are too few."""
    if images.labels is None:
        raise DataError(f"{images.name} has no labels; --place needs one sub-folder per class, or `labels` in the .npz")
    found = np.flatnonzero(images.labels >= 0)
    if len(found) < FEWEST:
        raise DataError(f"{images.name} has {len(found)} labelled images; --place needs at least {FEWEST}")
    require_two_classes(images)
    return found


def split(labels: Indices, seed: int) -> Split:
    """A fifth to report on, the rest in four folds; every class is dealt alike."""
    generator = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(FOLDS)]
    report: list[int] = []
    turn = 0
    for label in np.unique(labels):
        mine = generator.permutation(np.flatnonzero(labels == label))
        held = int(len(mine) * REPORT_SHARE + generator.random())
        report += mine[:held].tolist()
        for image in mine[held:].tolist():
            parts[turn % FOLDS].append(image)
            turn += 1
    return Split([np.sort(np.array(part, np.int64)) for part in parts], np.sort(np.array(report, np.int64)))
