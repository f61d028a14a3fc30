"""The front of all cascades: exact over the candidates, the thresholds of their grids and the number of exits.

A cascade is a chain of options (options.py) of different candidates, in order. Its cost and its right answers are
counted on the search's images. The front is what no other cascade beats in both; of equals the one with fewer exits is
kept. Nothing is left out but branches whose every continuation is beaten: at the very best, all images that a chain has
left are answered at the next candidate, and are right wherever any later exit is.
`tests/placement/test_search.py` compares with all cascades one by one.

A level of the search has one exit more. Its chains are evaluated as matrix products: images left over by the chains of
a branch, times what the options take. Counts are whole numbers below 2^24, so single precision is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perse_compile.errors import DataError
from perse_compile.personalise.learning import one_thread
from perse_compile.placement.costs import Costs
from perse_compile.placement.options import Options, options
from perse_compile.placement.records import Answers

GRIDS = (16, 12, 8, 6, 4)  # finer ones fit the search's images better and fresh ones no better (docs/placement.md)
WORK = 1e11  # multiply-adds of the last level at most: some seconds on one core
SAME = 1e-9  # costs that differ less are equal
Floats = NDArray[np.float64]
Single = NDArray[np.float32]
Chain = tuple[int, ...]  # of options
Tell = Callable[[int, int], None]  # first options done, of how many


@dataclass(frozen=True)
class Found:
    """The front, from the cheapest to the most accurate; the full network alone is the empty chain."""

    options: Options
    chains: list[Chain]
    right: list[int]  # of the search's images
    costs: list[float]
    grid: int
    exits: int  # complete for cascades of at most so many
    looked_at: int  # cascades evaluated
    ruled_out: int  # chains whose continuations a bound ruled out
    interrupted: bool


def search(
    answers: Answers, costs: Costs, most: int, tell: Tell = lambda done, total: None, grid: int | None = None
) -> Found:
    """All cascades of at most `most` exits. Ctrl-C leaves those with fewer that were finished. Raises DataError."""
    most = min(most, len(answers.sure) - 1)
    grid = grid or grid_for(len(answers.sure) - 1, answers.right.shape[1], most)
    searching = _Search(options(answers, grid), answers, costs)
    done, interrupted = 0, False
    try:
        with one_thread():
            for exits in range(1, most + 1):
                searching.level(exits, tell)
                done = exits
    except KeyboardInterrupt:
        if done == 0:
            raise
        interrupted = True
    chains, right, found = searching.front()
    return Found(
        searching.options, chains, right, found, grid, done, searching.looked_at, searching.ruled_out, interrupted
    )


def grid_for(candidates: int, images: int, most: int) -> int:
    """The finest grid that `WORK` allows. Raises DataError."""

    def fits(grid: int, exits: int) -> bool:
        return bool(2.0 * comb(candidates, exits) * float(grid) ** exits * images <= WORK)

    for grid in GRIDS:
        if fits(grid, most):
            return grid
    fewer = next((exits for exits in range(most, 0, -1) if fits(GRIDS[-1], exits)), 0)
    raise DataError(
        f"{most} exits among {candidates} candidates on {images} images are too many cascades to look at;"
        f" --exits {fewer} is possible, or give fewer images"
    )


@dataclass(frozen=True)
class _Branch:
    """Chains whose last options are of one candidate."""

    chains: list[Chain]
    left: Single  # [P,N] 1 where no exit has answered
    right: Floats  # [P] answers so far
    cost: Floats  # [P] of those answers and of the heads asked, as a sum over images
    last: int  # candidate; -1 at the start


class _Search:
    def __init__(self, chosen: Options, answers: Answers, costs: Costs) -> None:
        self.options = chosen
        images = answers.right.shape[1]
        right = answers.right.astype(np.float32)
        self.takes: Single = chosen.takes.astype(np.float32)
        self.own: Single = right[chosen.candidate]  # [O,N] whether the option's head is right
        self.final: Single = right[-1]
        self.takes_right: Single = self.takes * self.own
        self.gains: Single = self.takes * (self.own - self.final)
        self.backbone: Floats = costs.backbone[chosen.candidate]
        self.heads: Floats = costs.heads[chosen.candidate]
        self.start = np.searchsorted(chosen.candidate, np.arange(len(answers.sure)))  # first option of candidates
        # of the candidates from m on: the cheapest answer, and whether any answer is right
        self.cheapest = np.minimum.accumulate((costs.backbone + costs.heads)[::-1])[::-1]
        self.any_right = np.maximum.accumulate(right[::-1], 0)[::-1]
        self.best: Floats = np.full(images + 1, np.inf)  # least cost by right answers, as a sum over images
        self.chain: list[Chain] = [()] * (images + 1)
        self.best[int(self.final.sum())] = images
        self.at_least: Floats = np.minimum.accumulate(self.best[::-1])[::-1]  # least cost with so many or more
        self.looked_at, self.ruled_out = 1, 0

    def front(self) -> tuple[list[Chain], list[int], list[float]]:
        cheaper = np.append(self.at_least[1:], np.inf)
        found = [int(r) for r in np.flatnonzero(self.best < cheaper - SAME * len(self.final))]
        return [self.chain[r] for r in found], found, [float(self.best[r]) / len(self.final) for r in found]

    def level(self, exits: int, tell: Tell) -> None:
        """All cascades of exactly so many exits."""
        images = len(self.final)
        root = _Branch([()], np.ones((1, images), np.float32), np.zeros(1), np.zeros(1), -1)
        self._walk(root, exits, tell)

    def _walk(self, branch: _Branch, exits: int, tell: Tell | None = None) -> None:
        if exits == 1:
            self._evaluate(branch)
            return
        for child in self._children(branch, tell):
            if child.chains:
                self._walk(child, exits - 1)

    def _children(self, branch: _Branch, tell: Tell | None) -> Iterator[_Branch]:
        """One exit more, candidate by candidate, without what the bound rules out."""
        candidates = len(self.start) - 1
        for candidate in range(branch.last + 1, candidates - 1):
            for row in range(len(branch.chains)):
                yield self._bounded(self._child(branch, row, candidate))
            if tell is not None:
                tell(candidate + 1, candidates - 1)

    def _child(self, branch: _Branch, row: int, candidate: int) -> _Branch:
        chosen = slice(self.start[candidate], self.start[candidate + 1])
        left = branch.left[row]
        taken = self.takes[chosen] @ left
        right = self.takes_right[chosen] @ left
        cost = branch.cost[row] + left.sum() * self.heads[chosen] + taken * self.backbone[chosen]
        return _Branch(
            [(*branch.chains[row], option) for option in range(chosen.start, chosen.stop)],
            left * (1 - self.takes[chosen]),
            branch.right[row] + right.astype(np.float64),
            cost,
            candidate,
        )

    def _bounded(self, branch: _Branch) -> _Branch:
        """What can still better the front."""
        later = branch.last + 1
        most = branch.right + (branch.left @ self.any_right[later]).astype(np.float64)
        least = branch.cost + branch.left.sum(1) * self.cheapest[later]
        open_ = np.flatnonzero(self.at_least[most.astype(np.int64)] > least + SAME * len(self.final))
        self.ruled_out += len(branch.chains) - len(open_)
        chains = [branch.chains[row] for row in open_]
        return _Branch(chains, branch.left[open_], branch.right[open_], branch.cost[open_], branch.last)

    def _evaluate(self, branch: _Branch) -> None:
        """Every chain of the branch with every later option, and then the final exit."""
        first = self.start[branch.last + 1]
        left = branch.left.sum(1).astype(np.float64)[:, None]
        taken, gain = (_product(branch.left, part[first:]) for part in (self.takes, self.gains))
        right = (branch.right + branch.left @ self.final)[:, None] + gain
        cost = branch.cost[:, None] + left * (1 + self.heads[first:]) - taken * (1 - self.backbone[first:])
        self.looked_at += cost.size
        counts = right.astype(np.int64)
        better = np.nonzero(cost < self.at_least[counts] - SAME * len(self.final))
        if len(better[0]):
            self._keep(branch, first, better, counts[better], cost[better])

    def _keep(self, branch: _Branch, first: int, at: Any, counts: NDArray[np.int64], cost: Floats) -> None:
        order = np.lexsort((cost, counts))
        _, firsts = np.unique(counts[order], return_index=True)
        for place in order[firsts]:
            count = counts[place]
            if cost[place] < self.best[count] - SAME * len(self.final):
                self.best[count] = cost[place]
                self.chain[count] = (*branch.chains[at[0][place]], int(first + at[1][place]))
        self.at_least = np.minimum.accumulate(self.best[::-1])[::-1]


def _product(left: Single, right: Single) -> Single:
    """left @ right.T, in as many threads as torch may use."""
    return torch.mm(torch.from_numpy(left), torch.from_numpy(right).T).numpy()
