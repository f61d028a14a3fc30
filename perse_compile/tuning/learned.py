"""What measurements teach about knobs: gradient-boosted trees on top of the arithmetic of model.py.

Learnt is log(time / time of the task's default knobs), less what the arithmetic says of it, so that an untaught model
is the arithmetic, and what one task teaches holds for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perse_compile.lowering.choices import Knobs, default
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target
from perse_compile.tuning.model import points

Numbers = NDArray[np.float64]
ROUNDS, RATE, DEPTH = 40, 0.2, 3
SPLITS = 12  # values tried of each feature
FEWEST = 4  # measurements in a leaf
WORTH_FITTING = 1.03  # times as many measurements as last time
FAILED = 1.5  # log of how much slower than the default a failed candidate counts


@dataclass
class Tree:
    """Splits by one question after the other, `row[feature] <= limit`; leaves hold means."""

    value: float
    feature: int = 0
    limit: float = 0.0
    yes: Tree | None = None
    no: Tree | None = None

    def predict(self, rows: Numbers) -> Numbers:
        if self.yes is None or self.no is None:
            return np.full(len(rows), self.value)
        below = rows[:, self.feature] <= self.limit
        result = np.empty(len(rows))
        result[below], result[~below] = self.yes.predict(rows[below]), self.no.predict(rows[~below])
        return result


@dataclass(frozen=True)
class Questions:
    """Every question that splits may ask: (feature, limit), and every row's answers (rows, questions) as 0 or 1."""

    asked: list[tuple[int, float]]
    answers: NDArray[np.float32]


def questions(rows: Numbers) -> Questions:
    steps = np.linspace(0.05, 0.95, SPLITS)
    asked = [(f, float(limit)) for f, column in enumerate(rows.T) for limit in np.unique(np.quantile(column, steps))]
    answers = np.stack([rows[:, feature] <= limit for feature, limit in asked], axis=1)
    return Questions(asked, answers.astype(np.float32))


def grow(given: Questions, values: NDArray[np.float32], depth: int = DEPTH) -> Tree:
    """The tree that greedily makes the squared error least."""
    total, count = float(values.sum()), len(values)
    leaf = Tree(total / (count + 1))  # a little towards 0
    if depth == 0 or count < 2 * FEWEST:
        return leaf
    yes, sums = given.answers.sum(axis=0), values @ given.answers
    fits = (yes >= FEWEST) & (count - yes >= FEWEST)
    safe = np.where(fits, yes, 1)
    gains = np.where(fits, sums**2 / safe + (total - sums) ** 2 / np.maximum(1, count - safe), 0)
    best = int(gains.argmax())
    if gains[best] <= total**2 / count + 1e-9:
        return leaf
    chosen = given.answers[:, best] > 0
    halves = [(Questions(given.asked, given.answers[half]), values[half]) for half in (chosen, ~chosen)]
    return Tree(leaf.value, *given.asked[best], *(grow(*half, depth - 1) for half in halves))


@dataclass
class Learned:
    """Predicts log(time / time with default knobs) for any task of a target."""

    target: Target
    _rows: list[list[float]] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _trees: list[Tree] = field(default_factory=list)
    _fitted: int = 0  # rows when the trees grew
    _known: dict[tuple[Workload, Knobs], float] = field(default_factory=dict)

    def learn(self, work: Workload, measured: Sequence[tuple[Knobs, float]]) -> None:
        """`measured`: knobs and their time over the default's; infinite where they failed."""
        for knobs, ratio in measured:
            value = min(math.log(ratio), FAILED) if ratio > 0 else 0.0
            self._rows.append(features(work, knobs, self.target))
            self._values.append(value - self.arithmetic(work, knobs))

    def _fit(self) -> None:
        """Trees for all that was learnt, unless that is hardly more than last time."""
        if len(self._rows) > WORTH_FITTING * self._fitted:
            self._trees = boost(np.array(self._rows), np.array(self._values))
            self._fitted = len(self._rows)

    def predict(self, work: Workload, knobs: Sequence[Knobs]) -> Numbers:
        """Log of time over the default's; less is better."""
        self._fit()
        result = np.array([self.arithmetic(work, each) for each in knobs])
        if self._trees:
            rows = np.array([features(work, each, self.target) for each in knobs])
            for tree in self._trees:
                result += RATE * tree.predict(rows)
        return result

    def arithmetic(self, work: Workload, knobs: Knobs) -> float:
        """The same, untaught."""
        if (work, knobs) not in self._known:
            usual = points(work, default(work, self.target), self.target)
            self._known[work, knobs] = math.log(points(work, knobs, self.target) / usual)
        return self._known[work, knobs]


def boost(rows: Numbers, values: Numbers) -> list[Tree]:
    """Trees that add up, times RATE, to about these values."""
    trees: list[Tree] = []
    if len(values) < 2 * FEWEST:
        return trees
    asked, left = questions(rows), values.astype(np.float32)
    for _ in range(ROUNDS):
        trees.append(grow(asked, left))
        left -= RATE * trees[-1].predict(rows).astype(np.float32)
    return trees


def features(work: Workload, knobs: Knobs, target: Target) -> list[float]:
    """Numbers that say what may matter; logarithms of sizes."""
    taps = work.kernel[0] * work.kernel[1]
    weights, image = taps * work.group_in * work.out_channels, work.pixels * work.in_channels
    sizes = (taps, work.group_in, work.out_channels, work.pixels, weights, image, work.macs)
    common = [math.log2(max(1, size)) for size in sizes]
    if isinstance(knobs, ConvKnobs):
        vectors = max(1, knobs.block // target.lanes)
        pixels = knobs.rows * knobs.columns
        waste = -(-work.width // knobs.columns) * knobs.columns / work.width
        own = [knobs.rows, knobs.columns, vectors, pixels * vectors, knobs.unroll, knobs.channels_first, knobs.ahead]
        return [*common, *own, knobs.winograd, knobs.pieces, waste, work.out_channels % knobs.block, 0.0]
    if isinstance(knobs, DepthwiseKnobs):
        vectors = max(1, knobs.block // target.lanes)
        pixels = knobs.rows * knobs.columns
        own = [knobs.rows, knobs.columns, vectors, pixels * vectors, knobs.unroll_x, knobs.channels_last]
        return [*common, *own, knobs.unroll_y, 0.0, 0.0, 1.0, 0.0, 1.0]
    return [*common, knobs.rows, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, knobs.pieces, 1.0, 0.0, 2.0]
