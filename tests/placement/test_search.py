"""The search finds what looking at every cascade finds."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from math import comb

import numpy as np
import pytest

from perse_compile.errors import DataError
from perse_compile.placement import search as searching
from perse_compile.placement.costs import Costs
from perse_compile.placement.options import Options, options
from perse_compile.placement.points import Early, figures
from perse_compile.placement.records import Answers
from perse_compile.placement.search import WORK, grid_for, search

Front = list[tuple[int, float]]


def records(seed: int, candidates: int = 4, images: int = 40) -> tuple[Answers, Costs]:
    """Heads that get better with depth and are sure when they are right, more or less; some cost a lot."""
    rng = np.random.default_rng(seed)
    skill = np.sort(rng.uniform(0.4, 0.95, candidates + 1))[:, None]
    hard = rng.uniform(0, 1, images)
    right = rng.normal(skill - hard, 0.2) > 0
    sure = np.round(1 / (1 + np.exp(-4 * (rng.normal(skill - hard, 0.3)[:-1]))), 2)  # with ties
    backbone = np.sort(rng.uniform(0.02, 0.95, candidates))
    return Answers(np.vstack([sure, np.ones(images)]), right), Costs(
        backbone, rng.uniform(0.0, 0.1, candidates), "invented"
    )


def one_by_one(answers: Answers, costs: Costs, chosen: Options, most: int) -> Front:
    """The front, from all cascades, each image by image."""
    by_candidate = [np.flatnonzero(chosen.candidate == m) for m in range(len(costs.heads))]
    found: dict[int, float] = {}
    for count in range(most + 1):
        for places in combinations(by_candidate, count):
            for chain in product(*places):
                cost, right = 0.0, 0
                for image in range(answers.right.shape[1]):
                    for option in chain:
                        candidate = chosen.candidate[option]
                        cost += costs.heads[candidate]
                        if answers.sure[candidate, image] >= chosen.threshold[option]:
                            cost += costs.backbone[candidate]
                            right += int(answers.right[candidate, image])
                            break
                    else:
                        cost += 1
                        right += int(answers.right[-1, image])
                found[right] = min(found.get(right, np.inf), cost / answers.right.shape[1])
    front: Front = []
    for right in sorted(found, reverse=True):
        if not front or found[right] < front[-1][1] - 1e-9:
            front.append((right, found[right]))
    return front[::-1]


@pytest.mark.parametrize("seed", range(12))
def test_the_front_is_that_of_all_cascades(seed: int) -> None:
    answers, costs = records(seed)
    found = search(answers, costs, 3, grid=3)
    expected = one_by_one(answers, costs, found.options, 3)
    assert found.right == [right for right, _ in expected]
    assert found.costs == pytest.approx([cost for _, cost in expected], abs=1e-9)
    for chain, right, cost in zip(found.chains, found.right, found.costs, strict=True):
        exits = [Early(int(found.options.candidate[o]), "", float(found.options.threshold[o]), 1.0) for o in chain]
        assert [exit.candidate for exit in exits] == sorted({exit.candidate for exit in exits})
        told = figures(exits, answers, costs)
        assert (round(told.accuracy * 40), told.cost) == (right, pytest.approx(cost))


def test_a_bound_rules_branches_out_and_nothing_is_lost(monkeypatch) -> None:
    answers, costs = records(3, candidates=7, images=300)
    found = search(answers, costs, 3, grid=6)
    assert found.ruled_out > 50
    monkeypatch.setattr(searching._Search, "_bounded", lambda self, branch: branch)
    every = search(answers, costs, 3, grid=6)
    assert every.ruled_out == 0 and every.looked_at > found.looked_at
    assert (every.right, every.costs) == (found.right, pytest.approx(found.costs))


def test_one_exit_more_never_hurts_and_a_head_for_nothing_is_not_taken() -> None:
    answers, costs = records(5, candidates=6, images=200)
    fronts = [search(answers, costs, most, grid=8) for most in (1, 2, 3)]
    for fewer, more in pairwise(fronts):
        for right, cost in zip(fewer.right, fewer.costs, strict=True):
            assert any(r >= right and c <= cost + 1e-9 for r, c in zip(more.right, more.costs, strict=True))
    free = Costs(costs.backbone, np.zeros(6), "invented")
    nobody = Answers(np.zeros((7, 200)), np.zeros((7, 200), bool) | (np.arange(7) == 6)[:, None])
    assert search(nobody, free, 3).chains == [(0,), ()]  # always wrong for least, always right for all


def test_thresholds_lie_between_confidences() -> None:
    sure = np.array([[0.2, 0.9, 0.5, 0.9, 0.7, 0.6, 0.6, 0.1], [1.0] * 8])
    chosen = options(Answers(sure, np.zeros((2, 8), bool)), 4)
    assert chosen.threshold == pytest.approx([0.8, 0.35, 0.0])  # at 4 of 8 lies a tie, which cannot be divided
    assert chosen.takes.sum(1).tolist() == [2, 6, 8]


def test_the_grid_is_as_fine_as_the_work_allows() -> None:
    assert grid_for(3, 100, 3) == 16
    grids = [grid_for(candidates, 2400, 3) for candidates in (10, 24, 36, 48)]
    assert grids == sorted(grids, reverse=True) and grids[0] > grids[-1]
    with pytest.raises(DataError, match=r"6 exits among 48 candidates .* --exits 3 is possible"):
        grid_for(48, 5000, 6)
    assert 2.0 * 4**3 * comb(48, 3) * 5000 <= WORK < 2.0 * 4**4 * comb(48, 4) * 5000


def test_ctrl_c_leaves_the_levels_that_are_done() -> None:
    answers, costs = records(1, candidates=6)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    found = search(answers, costs, 3, stop, grid=4)
    assert found.interrupted and found.exits == 1
    expected = one_by_one(answers, costs, found.options, 1)
    assert all(any(r >= right and c <= cost + 1e-9 for r, c in zip(found.right, found.costs, strict=True))
               for right, cost in expected)  # fmt: skip
