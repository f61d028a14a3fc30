"""Measuring candidates here and under the emulator: order, wrong ones, crashes, hangs, what cannot go on."""

from __future__ import annotations

import math
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tvm import te, tirx

from perse_compile import targets
from perse_compile.devices import LocalDevice
from perse_compile.errors import DeviceError
from perse_compile.lowering.choices import Choices, Chosen
from perse_compile.lowering.heads import lower_head
from perse_compile.lowering.kernels.margins import with_margins
from perse_compile.lowering.schedules.elementwise import HeadKnobs
from perse_compile.lowering.values import Constant
from perse_compile.tuning import batch as batches
from perse_compile.tuning import measure as measuring
from perse_compile.tuning.measure import Candidate, Effort, Measurement, MeasuringStopped, measure
from tests.artifacts import device_for
from tests.tuning.candidates import (
    FAST,
    SIZE,
    SLOW,
    calls,
    convolution,
    double,
    infinite,
    of,
    reads_address_zero,
    triple,
)
from tests.tuning.schedules import nothing, refuses

X86 = targets.load("x86_64-linux")
LOCAL = LocalDevice()
QUICK = Effort(repeats=3, seconds=0.002, limit=1.0)


def errors(measured: list[Measurement]) -> list[str | None]:
    return [measurement.error for measurement in measured]


@pytest.mark.parametrize("threads", [1, 2])
def test_order(threads: int) -> None:
    """Winograd, a good tile and a bad one, of packed weights that differ, give one result at different speeds."""
    candidates = [convolution(X86, 64, 24, 3, knobs) for knobs in (None, FAST, SLOW)]
    assert len(candidates[0].calls) >= 3
    measured = measure(candidates, X86, LOCAL, threads=threads)
    assert errors(measured) == [None] * 3
    assert all(len(m.seconds) >= 7 and min(m.seconds) > 0 for m in measured)
    assert measured[1].cost < measured[2].cost / 2


@pytest.mark.parametrize(
    "value, says",
    [
        (calls("abort"), "crashed (signal 6)"),
        (reads_address_zero, "crashed (signal 11)"),
        (calls("_exit", tirx.IntImm("int32", 3)), "crashed (status 3)"),
        (calls("pause"), "took longer than 1 s"),
        (triple, "wrong result"),
        (infinite, "wrong result: not finite"),
    ],
)
def test_one_that_fails_costs_only_itself(value, says: str) -> None:
    candidates = [of(X86, double), of(X86, value), of(X86, double)]
    assert errors(measure(candidates, X86, LOCAL, effort=QUICK)) == [None, says, None]


def test_one_that_does_not_compile() -> None:
    good = of(X86, double)
    refused = Candidate([replace(good.calls[0], schedule=refuses)], "double")
    x = te.placeholder((1 << 15,), name="x")
    twice = te.compute(x.shape, lambda i: double(x[i]), name="twice")
    large = te.create_prim_func([x, te.compute(x.shape, lambda i: twice[i] + twice[(1 << 15) - 1 - i], name="y")])
    call = replace(good.calls[0], func=large, schedule=nothing, inputs=[("x", (1 << 15,))], shape=(1 << 15,))
    measured = measure([refused, good, Candidate([call], "large")], X86, LOCAL, effort=QUICK)
    assert measured[1].error is None
    assert measured[0] == Measurement(error="does not compile: no loop of that name")
    assert "wants 131072 bytes of workspace" in str(measured[2].error)
    assert measure([refused], X86, LOCAL) == [Measurement(error="does not compile: no loop of that name")]
    assert measured[0].cost == math.inf > measured[1].cost


def test_a_kernel_gives_back_its_workspace() -> None:
    """Sums of pieces of a head take 36 KB of it: what is not given back after a run is used up after 116."""
    often = Effort(repeats=300, seconds=0.001, limit=10.0, sweep=0)
    knobs = HeadKnobs(pieces=8, rows=8)
    calls, _ = lower_head(512, 1000, Choices(X86, lambda work: Chosen(knobs)))
    assert errors(measure([Candidate(calls, "head")], X86, LOCAL, threads=2, effort=often)) == [None]


def test_results_are_compared_across_batches_and_only_within_a_task() -> None:
    results: dict[str, measuring.Sums] = {}
    assert errors(measure([of(X86, double)], X86, LOCAL, effort=QUICK, results=results)) == [None]
    second = [of(X86, triple), of(X86, triple, "triple")]
    assert errors(measure(second, X86, LOCAL, effort=QUICK, results=results)) == ["wrong result", None]
    assert set(results) == {"double", "triple"}


@pytest.mark.parametrize("element", [0, 1, SIZE - 1])
def test_one_wrong_element_is_enough(element: int) -> None:
    weights = np.ones(SIZE, np.float32)
    wrong = weights.copy()
    wrong[element] = 1.5
    candidates = [
        of(X86, double, weights=Constant("w", array)) for array in (weights, wrong, weights * np.float32(1 + 1e-6))
    ]
    assert errors(measure(candidates, X86, LOCAL, effort=QUICK)) == [None, "wrong result", None]


def test_weights_too_large_to_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any packing of them holds the same, so results agree."""
    monkeypatch.setattr(batches, "SHIPPED", 1024)
    rng = np.random.default_rng(0)
    candidates = [of(X86, double, weights=Constant("w", rng.normal(size=SIZE).astype(np.float32))) for _ in range(2)]
    assert errors(measure(candidates, X86, LOCAL, effort=QUICK)) == [None, None]


def test_inputs_hold_zeros_in_their_margins() -> None:
    image = with_margins("x", (1, 3, 4, 2), (1, 2, 1, 0))
    values = batches._values("x", image.memory, "float32", image).reshape(6, 5, 2)
    inside = batches._values("x", (1, 3, 4, 2), "float32", None).reshape(3, 4, 2)
    assert np.array_equal(values[1:4, 1:], inside)
    assert np.count_nonzero(values) == np.count_nonzero(inside) == inside.size
    pixels = batches._values("x", (1, 9, 9, 3), "uint8", None)
    assert pixels.dtype == np.uint8 and pixels.max() > 200


@pytest.mark.arm
@pytest.mark.parametrize("name", ["arm64-linux", "armv7-linux"])
def test_emulator_ranks_by_instructions(name: str) -> None:
    target = targets.load(name)
    device = device_for(name)
    good, bad = (convolution(target, 32, 14, 3, knobs) for knobs in ({**FAST, "columns": 2}, SLOW))
    candidates = [good, bad, of(target, double), of(target, triple), of(target, calls("abort"))]
    refused = Candidate([replace(good.calls[0], schedule=refuses)], "conv")
    measured = measure([*candidates, refused], target, device, effort=QUICK)
    assert errors(measured) == [
        None, None, None, "wrong result", "crashed (signal 6)", "does not compile: no loop of that name",
    ]  # fmt: skip
    assert all(m.seconds == () for m in measured)
    first, second = measured[0].instructions, measured[1].instructions
    assert first is not None and second is not None and first < second
    macs = 14 * 14 * 32 * 32 * 9
    assert macs / 4 < first < 2 * macs
    assert measured[0].cost == first
    assert measure(candidates[:1], target, device)[0].instructions == first


def script(path: Path, text: str) -> LocalDevice:
    """A device that starts programs with a shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return LocalDevice("board", (str(path),))


@pytest.mark.parametrize(
    "text, says",
    [
        ('"$@" | head -n 1; kill -9 $$', "measuring on board was stopped by signal 9"),
        ('"$@" | head -n 1; echo "no space left" >&2; exit 1', "measuring on board failed: no space left"),
        ('"$@" | head -n 1; exit 3', "measuring on board failed: status 3"),
        ('"$@" | head -n 1', "board answered for fewer candidates than it was given"),
        ('"$@" | head -n 1; printf "{\\"candida"; kill -9 $$', "stopped by signal 9"),
    ],
)
def test_a_device_that_goes_away_leaves_what_it_had_said(tmp_path: Path, text: str, says: str) -> None:
    refused = Candidate([replace(of(X86, double).calls[0], schedule=refuses)], "double")
    with pytest.raises(MeasuringStopped, match=says) as stopped:
        measure([of(X86, double), of(X86, double), refused], X86, script(tmp_path / "run", text), effort=QUICK)
    assert sorted(stopped.value.measured) == [0, 2]
    assert stopped.value.measured[0].error is None and stopped.value.measured[0].seconds


def test_a_device_that_stops_answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PATIENCE", 1.0)
    device = script(tmp_path / "run", '"$@"; exec sleep 60')
    with pytest.raises(MeasuringStopped, match="board stopped answering") as stopped:
        measure([of(X86, double)], X86, device, effort=replace(QUICK, limit=0.5))
    assert list(stopped.value.measured) == [0]


def test_a_device_of_another_architecture() -> None:
    target = targets.load("arm64-linux")
    with pytest.raises(DeviceError, match=r"local cannot run code for arm64-linux: .*Exec format error"):
        measure([of(target, double)], target, LOCAL)


def test_a_device_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"board cannot run code for x86_64-linux: .*No such file"):
        measure([of(X86, double)], X86, LocalDevice("board", (str(tmp_path / "gone"),)))


def test_no_room_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measuring, "write_batch", full)
    with pytest.raises(DeviceError, match=r"cannot write a batch of candidates: .*No space left"):
        measure([of(X86, double)], X86, LOCAL)
