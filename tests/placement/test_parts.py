"""Candidates, costs, split, features, heads, budget, static networks: one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perse_compile import ops
from perse_compile.errors import ArtifactError, DataError, PassError
from perse_compile.macs import head_macs as macs_of_head
from perse_compile.passes import analysis_pipeline
from perse_compile.passes.place_exits import spread
from perse_compile.personalise.data import Images
from perse_compile.personalise.features import extract_features
from perse_compile.placement.budget import Budget, choose
from perse_compile.placement.candidates import candidates, thinned
from perse_compile.placement.costs import Costs, by_macs, by_time, line
from perse_compile.placement.features import extract, precision, with_exits_everywhere
from perse_compile.placement.heads import train_side_by_side
from perse_compile.placement.measured import Measured, MeasuredExit, measured
from perse_compile.placement.parallel import for_each
from perse_compile.placement.points import Early, Figures, Point, limit
from perse_compile.placement.records import record
from perse_compile.placement.split import FOLDS, labelled, split
from perse_compile.placement.static import Static, cheapest, parse_static
from perse_compile.placement.verdict import verdict
from perse_compile.program import CutPoint, Exit, Program
from tests.artifacts import CLASSES, Tiny, pictures
from tests.helpers import prepared
from tests.models import Computes, Plain


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def program() -> Program:
    return prepared(Tiny(), analysis_pipeline(), "tiny")


# --- candidates -------------------------------------------------------------------------------------------


def test_candidates_are_cut_points_that_are_not_the_same_again(program: Program) -> None:
    found = [cut.node for cut in candidates(program)]
    assert found == ["relu", "relu_1", "relu_2"]  # not before an activation, not at the end
    assert set(spread(program, 2)) <= set(found)
    assert [cut.node for cut in candidates(program, ("relu_2", "relu"))] == ["relu", "relu_2"]
    with pytest.raises(PassError, match="no node named 'nowhere'"):
        candidates(program, ("nowhere",))


def test_no_candidate_is_an_error() -> None:
    network = Computes(lambda m, x: m.conv(x).mean((2, 3)), conv=torch.nn.Conv2d(3, 2, 1))
    with pytest.raises(PassError, match="no place for an early exit"):
        candidates(prepared(network, analysis_pipeline()))


def test_too_many_are_thinned_where_they_are_nearest() -> None:
    cuts = [CutPoint(str(macs), macs, (1, 1, 1)) for macs in (10, 11, 20, 30, 31, 40)]
    assert [cut.macs for cut in thinned(cuts, 4)] == [10, 20, 30, 40]
    assert thinned(cuts, 6) == cuts


# --- costs ------------------------------------------------------------------------------------------------


def test_costs_by_macs_are_those_of_the_program(program: Program) -> None:
    cuts = candidates(program)
    probe = with_exits_everywhere(program, cuts)
    costs = by_macs(cuts, probe.exits, len(CLASSES))
    full = probe.exits[-1].macs + macs_of_head(probe, "final")
    assert costs.full_ms is None and costs.source == "multiply-accumulates"
    assert costs.backbone * full == pytest.approx([cut.macs for cut in cuts])
    assert costs.heads * full == pytest.approx([macs_of_head(probe, f"exit{i}") for i in range(len(cuts))])


def test_costs_by_time_interpolate_within_stages() -> None:
    cuts = [CutPoint(name, macs, (2, 4, 4)) for name, macs in (("a", 50), ("b", 100), ("c", 250))]
    exits = [Exit("e", cut.node, 1, 2, cut.macs) for cut in cuts] + [Exit("final", "z", 1, 10, 400)]
    seen = Measured(
        "milliseconds of it", 0.5,
        [MeasuredExit("b", 100, 52, 2.0, 0.3), MeasuredExit("z", 400, 100, 6.0, 0.5)],
    )  # fmt: skip
    costs = by_time(cuts, exits, 10, seen)
    assert costs.full_ms == pytest.approx(9.0)
    assert costs.backbone * 9 == pytest.approx([0.5 + 1.0, 0.5 + 2.0, 0.5 + 2.0 + 3.0])
    assert costs.heads * 9 == pytest.approx([0.3, 0.3, 0.3])  # 52 MACs each: on the line, and b as it was measured


def test_a_line_has_no_negative_part() -> None:
    assert line([(1, 3), (2, 5), (3, 7)]) == pytest.approx((1, 2))
    assert line([(1, 1), (2, 4)]) == pytest.approx((0, 9 / 5))
    assert line([(1, 4), (2, 1)]) == (2.5, 0.0)
    assert line([(2, 4)]) == (0.0, 2.0)
    assert line([(0, 4)]) == (4.0, 0.0)


def test_an_artifact_of_another_network_is_refused(program: Program) -> None:
    tap, end = program.cuts[1], {"tap": "mean", "macs": 1, "head_macs": 5}
    manifest = {
        "program": "tiny", "input": {"height": 32},
        "exits": [{"tap": tap.node, "macs": tap.macs, "head_macs": 7}, end],
    }  # fmt: skip
    times = [{"ms": 1.0}, {"ms": 2.0}]
    bench = {"device": "a board", "threads": 2, "input_ms": 0.1, "stages": times, "heads": times}
    found = measured(Path("tiny-x"), manifest, bench, program)
    assert found.source == "milliseconds of tiny-x on a board, 2 threads"
    assert found.exits[0] == MeasuredExit(tap.node, tap.macs, 7, 1.0, 1.0)
    with pytest.raises(ArtifactError, match=r"tiny-x is not an artifact of this network \(it is other's\)"):
        measured(Path("tiny-x"), {**manifest, "program": "other"}, bench, program)
    manifest["exits"] = [{**manifest["exits"][0], "macs": 3}, end]
    with pytest.raises(ArtifactError, match=rf"its tap {tap.node} is not in tiny"):
        measured(Path("tiny-x"), manifest, bench, program)


# --- images -----------------------------------------------------------------------------------------------


def images(count: int, labels: np.ndarray | None) -> Images:
    return Images("photos", np.zeros((count, 4, 4, 3), np.uint8), labels, list(CLASSES), [])


def test_the_split_deals_every_image_once_and_every_class_alike() -> None:
    labels = np.repeat(np.arange(5), 40)
    divided = split(labels, 0)
    everything = np.concatenate([*divided.folds, divided.report])
    assert sorted(everything) == list(range(200))
    assert len(divided.folds) == FOLDS and {len(fold) for fold in divided.folds} == {40}
    assert all(np.bincount(labels[fold]).tolist() == [8] * 5 for fold in divided.folds)
    assert np.bincount(labels[divided.report]).tolist() == [8] * 5
    assert set(divided.without(1)) == set(divided.search) - set(divided.folds[1])
    assert (split(labels, 1).report != divided.report).any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "photos has no labels; --place needs one sub-folder per class"),
        (np.repeat([0, 1, -1], [20, 20, 60]), "photos has 40 labelled images; --place needs at least 60"),
        (np.full(100, 2), "photos has labels of one class only"),
    ],
)
def test_images_that_will_not_do(labels: np.ndarray | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelled(images(100, labels))


def test_images_without_a_label_are_left_out() -> None:
    assert labelled(images(100, np.repeat([0, -1, 1], [40, 20, 40]))).tolist() == [*range(40), *range(60, 100)]


# --- features and heads -----------------------------------------------------------------------------------


def test_features_are_what_heads_read_whatever_the_precision(program: Program) -> None:
    cuts = candidates(program)
    probe = with_exits_everywhere(program, cuts)
    pixels, _ = pictures(100, 3)
    told: list[int] = []
    features, final = extract(probe, pixels, lambda done, total: told.append(done))
    expected = extract_features(probe, pixels, "cpu", lambda what, done, total: None)
    for x, y in zip(features, expected, strict=False):
        torch.testing.assert_close(torch.from_numpy(x), y, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        logits = ops.head(
            expected[-1], *(probe.tensor(f"final.{part}") for part in ("shift", "scale", "weight", "bias"))
        )
    torch.testing.assert_close(final, logits, rtol=1e-4, atol=1e-5)
    assert told == [64, 100]
    numbers = sum(exit.features for exit in probe.exits[:-1])
    halves, _ = extract(probe, pixels, quiet, memory=2 * 100 * numbers)
    assert halves[0].dtype == np.float16
    assert np.abs(halves[0] - features[0]).max() < 1e-2


def test_features_that_do_not_fit_are_an_error(program: Program) -> None:
    exits = [Exit("a", "a", 1, 500, 0), Exit("final", "z", 1, 8, 0)]
    assert precision(exits, 100, memory=200_000) is np.float32
    assert precision(exits, 100, memory=100_000) is np.float16
    with pytest.raises(DataError, match=r"features of 101 images at 1 candidates .* give at most 100 images"):
        precision(exits, 101, memory=100_000)


def test_the_programs_tensors_are_shared_and_the_program_stays(program: Program) -> None:
    before = list(program.passes)
    probe = with_exits_everywhere(program, candidates(program))
    assert program.exits == [] and program.passes == before
    shared = {t.data_ptr() for t in program.tensors().values()} & {t.data_ptr() for t in probe.tensors().values()}
    assert len(shared) >= 8


def test_heads_side_by_side_are_heads_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(90, 6, generator=rng), torch.arange(90) % 3
    x[:, 0] += labels
    teacher = torch.randn(90, 3, generator=rng)
    member = torch.ones(90, 3, dtype=torch.bool)
    member[:30, 0] = member[30:60, 1] = False
    together = train_side_by_side(x, teacher, labels, member, 0, 15)
    for column, head in enumerate(together):
        [alone] = train_side_by_side(x, teacher, labels, member[:, column : column + 1], 0, 15)
        torch.testing.assert_close(head.weight, alone.weight, rtol=1e-3, atol=1e-5)
    assert (together[2](x).argmax(1) == labels).float().mean() > 0.5
    changed = labels.clone()
    changed[:30] = (changed[:30] + 1) % 3  # what the first head does not learn from
    again = train_side_by_side(x, teacher, changed, member, 0, 15)
    assert torch.equal(again[0].weight, together[0].weight) and not torch.equal(again[1].weight, together[1].weight)


def test_records_do_not_leak() -> None:
    """Labels by chance: nobody can be right more often than by chance on images it did not learn from."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    features = [rng.normal(size=(400, 300)).astype(np.float32)]
    exits = [Exit("exit0", "tap", 1, 300, 0), Exit("final", "z", 1, 4, 0)]
    divided = split(labels, 0)
    found = record(exits, features, torch.zeros(400, 4), labels, divided, 0, quiet)
    own = found.heads[0](torch.from_numpy(features[0][divided.search])).argmax(1).numpy() == labels[divided.search]
    assert own.mean() > 0.95  # it can learn them by heart
    assert abs(found.search.right[0].mean() - 0.25) < 0.09 and abs(found.report.right[0].mean() - 0.25) < 0.17


def test_answers_that_are_not_finite_are_an_error() -> None:
    labels, x = np.arange(80) % 2, np.ones((80, 3), np.float32)
    exits = [Exit("exit0", "there", 1, 3, 0), Exit("final", "z", 1, 2, 0)]
    with pytest.raises(DataError, match="the network's own answers are not finite numbers"):
        record(exits, [x], torch.full((80, 2), torch.nan), labels, split(labels, 0), 0, quiet)
    x[5, 1] = np.nan
    with pytest.raises(DataError, match="features at there are not finite numbers"):
        record(exits, [x], torch.zeros(80, 2), labels, split(labels, 0), 0, quiet)


def test_ctrl_c_begins_nothing_new() -> None:
    begun: list[int] = []

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each(begun.append, list(range(1000)), stop)
    assert len(begun) < 1000


# --- choosing ---------------------------------------------------------------------------------------------

COUNTED = Costs(np.array([0.2, 0.5]), np.array([0.01, 0.01]), "multiply-accumulates")
TIMED = Costs(np.array([0.2, 0.5]), np.array([0.01, 0.01]), "milliseconds", 10.0)


def point(cost: float, accuracy: float, *exits: tuple[str, float]) -> Point:
    told = Figures(cost, accuracy, [])
    return Point([Early(i, tap, threshold, 1.0) for i, (tap, threshold) in enumerate(exits)], told, told)


FRONT = [point(0.2, 0.7, ("a", 0.0)), point(0.4, 0.85, ("a", 0.9)), point(0.6, 0.895, ("b", 0.9)), point(1.0, 0.9)]


@pytest.mark.parametrize(
    ("budget", "chosen", "why"),
    [
        (Budget(), 2, "the cheapest that loses at most 1.0 points"),
        (Budget(max_drop=0.06), 1, "the cheapest that loses at most 6.0 points"),
        (Budget(max_drop=0.0), 3, "the cheapest that loses at most 0.0 points"),
        (Budget(max_cost=0.5), 1, "the most accurate that costs at most 50.0 %"),
        (Budget(max_cost=0.7, max_drop=0.06), 1, "loses at most 6.0 points and costs at most 70.0 %"),
    ],
)
def test_a_budget_chooses(budget: Budget, chosen: int, why: str) -> None:
    found, told = choose(FRONT, 0.9, COUNTED, budget)
    assert found == chosen and told.endswith(why)


def test_a_budget_in_milliseconds() -> None:
    assert choose(FRONT, 0.9, TIMED, Budget(max_ms=6.5)) == (
        2,
        "the most accurate that costs at most 6.500 ms (65.0 %)",
    )
    with pytest.raises(DataError, match="--max-latency needs measured times; give --costs ARTIFACT"):
        choose(FRONT, 0.9, COUNTED, Budget(max_ms=6.5))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(max_ms=1.0),
            r"at most 1.000 ms \(10.0 %\); the cheapest costs 2.000 ms \(20.0 %\) and loses 20.0 points",
        ),
        (
            Budget(max_cost=0.5, max_drop=0.02),
            r"loses at most 2.0 points and costs at most 5.000 ms \(50.0 %\): at that cost the best loses 5.0 points;"
            r" losing so little costs 6.000 ms",
        ),
    ],
)
def test_a_budget_that_cannot_be_met_names_the_nearest(budget: Budget, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose(FRONT, 0.9, TIMED, budget)


def said(
    chosen: Point, front: list[Point] = FRONT, given: tuple[Static, ...] = (), report: float | None = None
) -> list[str]:
    truncated = [Static("a", 0.21, 0.7), Static("b", 0.51, 0.87)]
    if report is not None:
        chosen = Point(chosen.exits, chosen.search, Figures(chosen.search.cost, report, []))
    return verdict(front, chosen, Figures(1.0, 0.9, []), 400, truncated, given, COUNTED)


def test_what_is_said_of_the_choice() -> None:
    assert said(FRONT[3]) == ["no exit pays: nothing cheaper is within the limits"]
    assert said(FRONT[3], FRONT[3:]) == ["no exit pays: the front is the full network alone"]
    assert said(FRONT[0])[0].startswith("a smaller static network is better than early exits: the backbone up to a ")
    assert said(FRONT[1]) == [
        "early exits pay: as accurate without a choice is the backbone up to b with a head there, for 51.0 %"
    ]
    assert said(FRONT[2]) == ["early exits pay: no truncated network is as accurate"]
    assert said(point(0.4, 0.85, ("a", 0.9), ("b", 0.0)))[0].startswith("the final exit never answers: the network")
    assert said(FRONT[1], report=0.8)[-1].startswith("on the 400 images of the report it is right less often")
    assert len(said(FRONT[1], report=0.83)) == 1


def test_a_static_network_of_the_users() -> None:
    better, worse, beyond = (parse_static(text, COUNTED) for text in ("0.86@0.3", "0.8@0.9", "0.99@0.95"))
    assert said(FRONT[1], given=(better,))[-1].endswith("is better than what was chosen: use that instead")
    assert "is no better than the front, which has 89.5% for no more" in said(FRONT[1], given=(worse,))[-1]
    assert "lies beyond the front" in said(FRONT[1], given=(beyond,))[-1]
    assert parse_static("0.9@2ms", TIMED).cost == pytest.approx(0.2)
    assert cheapest([better, beyond], 0.9) == beyond and cheapest([better], 0.9) is None
    with pytest.raises(DataError, match=r"'0\.9@2ms' is in milliseconds and nothing was measured"):
        parse_static("0.9@2ms", COUNTED)
    for text in ("0.9", "x@0.4", "0.9@-1", "1.2@0.4", "0.9@inf"):
        with pytest.raises(DataError, match="is not ACCURACY@COST"):
            parse_static(text, COUNTED)


def test_a_plain_network_has_one_candidate() -> None:
    assert [cut.node for cut in candidates(prepared(Plain(), analysis_pipeline()))] == ["relu"]


def test_thresholds_in_words() -> None:
    assert [limit(value) for value in (0.0, 0.0123, 0.1, 0.876)] == ["always", "0.012", "0.10", "0.88"]
