"""`study`: people replayed on a small artifact, the numbers made of them, and what happens when it is interrupted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perse_compile import cli
from perse_compile.building.build import Built
from perse_compile.devices import LocalDevice
from perse_compile.errors import DataError, DeviceError
from perse_compile.personalise.calibrate import fit_thresholds
from perse_compile.personalise.data import read_images
from perse_compile.personalise.session import Session
from perse_compile.program import Program
from perse_compile.study import costs, study
from perse_compile.study.chart import Line, chart
from perse_compile.study.figures import BINS, THRESHOLDS, calibration_error, figures
from perse_compile.study.page import study_page
from perse_compile.study.plan import Plan, Trial
from perse_compile.study.records import Records
from perse_compile.study.replay import Replay
from perse_compile.study.summary import severe, spread, summarise
from perse_compile.study.watch import Observation, link_programs, watch
from tests.artifacts import CLASSES, checksums, pictures
from tests.test_report import HOSTILE, Reader, check_figures

OPTIONS = ("--users", "2", "--seeds", "1", "--samples", "40,20", "--labels", "100,0", "--test", "30")
PLAN = Plan(users=2, seeds=1, samples=(40, 20), labels=(1.0, 0.0), test=30, baseline_users=1)
Call = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def lab(build_tiny: Callable[[str], Built], tiny: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact, its program, and images."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(build_tiny("x86_64-linux").artifact.folder, folder / "tiny-x86_64-linux")
    tiny.save(folder / "tiny.perse")
    pixels, labels = pictures(400, seed=7)
    np.savez(folder / "data.npz", images=pixels, labels=labels, class_names=np.array(CLASSES))
    return folder


@pytest.fixture
def call(lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """call("--users", 2, ..., code=0): what `study` on the artifact wrote to stdout and to stderr."""
    monkeypatch.chdir(lab)

    def run(*words: str | Path, artifact: str = "tiny-x86_64-linux", code: int = 0) -> tuple[str, str]:
        words = ("perse-compile", "study", artifact, "--data", "data.npz", *words)
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert int(caught.value.code or 0) == code, captured.err
        return captured.out, captured.err

    return run


@pytest.fixture
def complains(call: Call) -> Callable[..., str]:
    """One line on stderr, nothing on stdout, exit status 1."""

    def run(*words: str | Path, **options: Any) -> str:
        out, err = call(*words, code=1, **options)
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="module")
def done(lab: Path) -> dict[str, Any]:
    """A whole study, with every baseline."""
    found: list[tuple[str, int, int]] = []
    before = checksums(lab / "tiny-x86_64-linux")
    result = study.run(
        lab / "tiny-x86_64-linux", lab / "data.npz", PLAN, lab / "done", None, lambda *told: found.append(told)
    )
    assert checksums(lab / "tiny-x86_64-linux") == before
    assert found[-1] == ("trials", 16, 16)
    return result


# --- the whole of it --------------------------------------------------------------------------------------


def test_every_trial_leaves_a_record(lab: Path, done: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (lab / "done" / "study.jsonl").read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    counts = {"study": 1, "user": 2, "heads": 8, "fast": 2, "cost": 1, "full": 1, "no-cache": 1, "hard": 1}
    assert {kind: kinds.count(kind) for kind in kinds} == counts
    assert done["trials"] == {"done": 16, "planned": 16} and not done["interrupted"]
    assert json.loads((lab / "done" / "study.json").read_text()) == done
    for row in rows[1:]:
        if row["kind"] == "heads" and not row["live"]:
            [person] = [one for one in rows if (one["kind"], one.get("user")) == ("user", row["user"])]
            assert row["own"] == person["generic"]
    assert any(row.get("live") for row in rows)


def test_the_numbers_are_those_of_the_records(lab: Path, done: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (lab / "done" / "study.jsonl").read_text().splitlines()]
    people = {row["user"]: row for row in rows if row["kind"] == "user"}
    mine = [row for row in rows if (row["kind"], row.get("samples"), row.get("labels")) == ("heads", 40, 1.0)]
    gains = [row["own"]["accuracy"] - people[row["user"]]["generic"]["exits"][-1]["accuracy"] for row in mine]
    [setting] = [one for one in done["settings"] if (one["samples"], one["labels"]) == (40, 1.0)]
    assert setting["gain"]["mean"] == pytest.approx(np.mean(gains)) and setting["gain"]["worst"] == min(gains)
    assert setting["users"] == 2 and sum(setting["shares"]) == pytest.approx(1)
    cost, [full] = done["cost"], [row for row in rows if row["kind"] == "full"]
    assert cost["full"]["times_faster"]["mean"] == pytest.approx(full["seconds"] / cost["seconds"]["mean"])
    assert full["peak_bytes"] > full["before_bytes"] > 50e6 > cost["peak_bytes"]["mean"] > 1e5
    assert cost["no-cache"]["seconds"]["mean"] > cost["seconds"]["mean"]
    assert len(full["accuracy"]) == 1 and full["accuracy"][0] > 0.4  # of about four classes
    names = [one["name"] for one in done["baselines"]]
    assert "whole network in PyTorch" in names and "hard pseudo-labels" in names


def test_what_the_artifact_says_is_what_is_watched(lab: Path, done: dict[str, Any]) -> None:
    """Accuracy and shares of `perse evaluate` on the same images."""
    images = read_images(lab / "data.npz", study.open_artifact(lab / "tiny-x86_64-linux").input, list(CLASSES))
    replay = Replay(study.open_artifact(lab / "tiny-x86_64-linux"), None, images, PLAN, None)  # type: ignore[arg-type]
    replay.work = lab / "programs"
    replay.work.mkdir()
    link_programs(replay.artifact, replay.work)
    seen = figures(replay._watch_generic(images))
    told = Session(replay.artifact, replay._device).evaluate(images)
    assert seen["accuracy"] == pytest.approx(told["accuracy"])
    assert [exit["accuracy"] for exit in seen["exits"]] == pytest.approx([exit["accuracy"] for exit in told["exits"]])
    assert [exit["share"] for exit in seen["exits"]] == pytest.approx([exit["share"] for exit in told["exits"]])
    with pytest.raises(DeviceError, match="not images of the network's size"):
        watch(
            replay.work / "watch", replay._device, replay.artifact.folder, images.pixels[:, 1:], seen_labels(images), 1
        )


@pytest.mark.parametrize("labelled", [300, 60, 0])
def test_thresholds_are_those_of_the_host(lab: Path, tmp_path: Path, labelled: int) -> None:
    """What `perse calibrate` chose on features in half precision, and fit_thresholds on the same exits' answers."""
    artifact = study.open_artifact(Path(shutil.copytree(lab / "tiny-x86_64-linux", tmp_path / "tiny")))
    images = read_images(lab / "data.npz", artifact.input, list(CLASSES))
    truth = np.where(np.arange(300) < labelled, seen_labels(images)[:300], -1)
    np.save(tmp_path / "x.npy", images.pixels[:300])
    np.save(tmp_path / "y.npy", truth)
    words = [
        str(tmp_path / "x.npy"),
        "--max-drop",
        "0.05",
        *(["--labels", str(tmp_path / "y.npy")] if labelled else []),
    ]
    told = Session(artifact, LocalDevice()).simple("calibrate", *words)
    link_programs(artifact, tmp_path)
    seen = watch(tmp_path / "watch", LocalDevice(), artifact.folder, images.pixels[:300], truth, 1)
    known = slice(labelled or 300)
    top = np.arange(len(CLASSES)) == seen.labels[known, :, None]
    sure = seen.confidence[known, :, None]
    answers = list(np.where(top, sure, (1 - sure) / (len(CLASSES) - 1)).transpose(1, 0, 2))
    chosen = fit_thresholds(answers, truth[known], 0.05)
    assert [exit["enabled"] for exit in told["exits"]] == [enabled for _, enabled in chosen]
    assert [exit["threshold"] for exit in told["exits"]] == pytest.approx([t for t, _ in chosen], abs=2e-3)


def seen_labels(images: Any) -> np.ndarray:
    assert images.labels is not None
    return np.asarray(images.labels)


def test_for_people_and_for_scripts(call: Call, done: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = call(*OPTIONS, "--baseline-users", "1", "-o", "done")
    assert "1  Accuracy" in out and "2  Latency" in out and "3  Cost" in out and "40, 100%" in out
    assert "look at done/study.html" in out
    lost = [one for one in done["baselines"] if any(row["wins"] for row in one["by_labels"])]
    assert ("the heads lose to" in out) == bool(lost)
    out, _ = call(*OPTIONS, "--baseline-users", "1", "-o", "done", "--json")
    assert json.loads(out) == {**done, "folder": "done"}


def test_the_page(lab: Path, done: dict[str, Any]) -> None:
    page = (lab / "done" / "study.html").read_text()
    read = Reader(page)
    assert read.tags.count("svg") == 3 and "whole network in PyTorch" in page
    away = [value for name, value in read.attributes if name == "src" or (name == "href" and str(value)[:1] != "#")]
    assert away == [] and "@import" not in page and check_figures(read, done) > 100
    hostile = Reader(study_page({**done, "artifact": HOSTILE, "data": HOSTILE}))
    assert "script" not in hostile.tags and "img" not in hostile.tags and HOSTILE in hostile.text
    alone = [row for row in done["settings"] if row["labels"] == done["settings"][0]["labels"]]
    assert "Give several --labels to see it." in Reader(study_page({**done, "settings": alone})).text


# --- interrupted ------------------------------------------------------------------------------------------


def test_after_ctrl_c_it_goes_on(lab: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    real, trials = Replay._do, list[Trial]()

    def interrupted(self: Replay, trial: Trial) -> dict[str, Any]:
        trials.append(trial)
        if len(trials) == 4:
            raise KeyboardInterrupt
        return real(self, trial)

    monkeypatch.setattr(Replay, "_do", interrupted)
    out, _ = call(*OPTIONS, "--baselines", "none", "--baseline-users", "0", "-o", "stopped", code=130)
    assert "stopped after 3 of 12 trials" in out
    kept = (lab / "stopped" / "study.jsonl").read_text()
    (lab / "stopped" / "study.jsonl").write_text(kept + '{"kind": "heads", "se')  # as a power cut leaves it
    out, _ = call(*OPTIONS, "--baselines", "none", "--baseline-users", "0", "-o", "stopped")
    assert "stopped" not in out.replace("stopped/study", "") and len(trials) == 4 + 9
    assert (lab / "stopped" / "study.jsonl").read_text().startswith(kept)


def test_stopped_before_anybody_came(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Replay, trial: Trial) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Replay, "_do", interrupted)
    out, _ = call(*OPTIONS, "--baselines", "none", "-o", "nobody", code=130)
    assert "stopped after 0 of 14 trials" in out and "Accuracy" not in out


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--baselines", "magic"), "unknown baseline 'magic'; known: full, no-cache, hard"),
        (("--population", "mars"), "unknown population 'mars'; known: development, report"),
        (("--samples", "0"), "give numbers of images from 1"),
        (("--labels", "120"), "give percentages between 0 and 100"),
        (("--labels", "many"), "--labels 'many' is not a list of numbers"),
        (("--users", "20", "--baselines", "none"), "of 20: not enough labelled images"),
        (("--test", "31", "-o", "done"), "is of another study (test)"),
    ],
)
def test_it_complains(done: dict[str, Any], complains: Callable[..., str], words: Any, told: str) -> None:
    rest = [*OPTIONS, *words]
    assert told in complains(*rest, *(() if "-o" in words else ("-o", "wrong")))


def test_a_damaged_file_of_records(lab: Path, done: dict[str, Any], complains: Callable[..., str]) -> None:
    lines = (lab / "done" / "study.jsonl").read_text().splitlines()
    (lab / "damaged").mkdir()
    (lab / "damaged" / "study.jsonl").write_text("\n".join([lines[0], "{nonsense", *lines[1:]]))
    assert "study.jsonl, line 2, is damaged" in complains(*OPTIONS, "-o", "damaged")
    (lab / "damaged" / "study.jsonl").write_bytes(b"\xff\xfe")
    assert "cannot read" in complains(*OPTIONS, "-o", "damaged")
    (lab / "file").touch()
    assert "cannot write" in complains(*OPTIONS, "-o", "file/in")


def test_records_that_cannot_be_written(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.jsonl", {})
    (tmp_path / "records.jsonl").unlink()
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*records.jsonl"):
        records.add({"kind": "user"})


def test_pytorch_needs_the_program(
    lab: Path, complains: Callable[..., str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = shutil.copytree(lab / "tiny-x86_64-linux", tmp_path / "alone")
    monkeypatch.setattr(Replay, "run", lambda *_: False)
    call(*OPTIONS, "-o", tmp_path / "found", artifact=str(alone), code=130)  # in the folder where we are
    monkeypatch.setattr(study, "Path", lambda name: tmp_path / "nowhere" / name)
    assert "give --program, or leave them out" in complains(*OPTIONS, artifact=str(alone))
    call(*OPTIONS, "--baselines", "hard", "-o", tmp_path / "found", artifact=str(alone), code=130)
    assert "missing.perse" in complains(*OPTIONS, "--program", "missing.perse")
    other = Program.load(lab / "tiny.perse")
    other.exits[0].grid += 1
    other.save(lab / "other.perse")
    assert "is not what" in complains(*OPTIONS, "--program", "other.perse")


def test_another_machines_artifact(complains: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "runs_here", lambda machine: False)
    assert "is for x86_64, and a study measures time" in complains(*OPTIONS)


def test_what_the_artifact_refuses_changes_nothing(lab: Path, tmp_path: Path) -> None:
    """Too few samples to learn from: the person keeps the heads as built. Anything else is an error."""
    few = Plan(users=1, seeds=1, samples=(8,), labels=(1.0,), test=20, baselines=(), baseline_users=0)
    found = study.run(lab / "tiny-x86_64-linux", lab / "data.npz", few, tmp_path / "few", None, lambda *_: None)
    assert found["settings"][0]["live"] == 0 and found["settings"][0]["below_built"] == 0
    assert found["cost"] is None


def test_what_else_fails_is_an_error(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise DeviceError("perse: disk full")

    monkeypatch.setattr(Session, "personalise", fails)
    with pytest.raises(DeviceError, match="disk full"):
        study.run(
            lab / "tiny-x86_64-linux", lab / "data.npz", PLAN, tmp_path / "out", lab / "tiny.perse", lambda *_: None
        )


def test_costs_complain(lab: Path, tmp_path: Path) -> None:
    artifact = study.open_artifact(lab / "tiny-x86_64-linux")
    images = read_images(lab / "data.npz", artifact.input, list(CLASSES))
    trial = Trial("full", 0, 0, 40, 1.0)
    with pytest.raises(DeviceError, match=r"the baseline full failed in PyTorch: .*no-such.perse"):
        costs.in_torch(tmp_path / "no-such.perse", trial, images, images, 1, tmp_path)
    link_programs(artifact, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeviceError, match="no such file"):
        costs.on_device(artifact, tmp_path / "peak", tmp_path / "empty", images, 1)


# --- the arithmetic ---------------------------------------------------------------------------------------


def observation() -> Observation:
    """Four images of class 0; exit 0 is right on two, and sure on two, one of them wrongly; the last exit on three."""
    return Observation(
        truth=np.zeros(4, int), taken=np.array([0, 0, 1, 1]), ms=np.array([1.0, 1.0, 3.0, 9.0]),
        full_ms=np.array([4.0, 4.0, 4.0, 40.0]), labels=np.array([[0, 0], [1, 0], [0, 0], [1, 1]]),
        confidence=np.array([[0.9, 1.0], [0.8, 0.6], [0.35, 0.9], [0.2, 0.5]]),
        until=np.array([[1.0, 5.0]] * 4),
    )  # fmt: skip


def test_figures() -> None:
    found = figures(observation())
    assert (found["images"], found["accuracy"], found["full_ms"]) == (4, 0.5, 4.0)
    assert found["ms"] == pytest.approx((1 + 1 + 6 + 6) / 4)  # medians of each exit
    assert [exit["accuracy"] for exit in found["exits"]] == [0.5, 0.75]
    assert [exit["share"] for exit in found["exits"]] == [0.5, 0.5]
    curve = dict(zip(THRESHOLDS, found["curve"], strict=True))
    assert curve[0.0] == [1.0, 0.5] and curve[1.01] == [5.0, 0.75]
    assert curve[0.85] == [4.0, 0.75] and curve[0.3] == [2.0, 0.5]


def test_calibration_error() -> None:
    bins = np.array(figures(observation())["exits"][0]["bins"])
    assert bins.shape == (BINS, 3) and bins.sum(0).tolist() == pytest.approx([4, 2.25, 2])
    assert calibration_error(bins) == pytest.approx((0.1 + 0.8 + 0.65 + 0.2) / 4)
    assert calibration_error(np.array([[10, 7.0, 7], [10, 3.0, 3]])) == 0


def test_spread_and_severity() -> None:
    assert spread([]) is None
    assert spread([1.0, 3.0]) == {"mean": 2.0, "spread": 1.0, "best": 3.0, "worst": 1.0}
    person = {"clean": 0.9, "generic": {"exits": [{"accuracy": 0.1}, {"accuracy": 0.79}]}}
    assert severe(person) and not severe({**person, "clean": 0.88})


def test_who_is_less_accurate_is_not_faster(tmp_path: Path) -> None:
    """And a baseline that is more accurate than the heads wins."""
    records = Records(tmp_path / "records.jsonl", {})
    seen = figures(observation())
    plan = Plan(users=2, seeds=1, samples=(40,), labels=(1.0,), test=30, baselines=("full",), baseline_users=2)
    for user, accuracy in enumerate((0.5, 0.75)):
        own = {**seen, "accuracy": accuracy, "ms": 1.0}
        records.add({"kind": "user", "seed": 0, "user": user, "clean": 0.8, "generic": seen})
        records.add({"kind": "heads", "seed": 0, "user": user, "samples": 40, "labels": 1.0, "live": True, "own": own})
        records.add({"kind": "full", "seed": 0, "user": user, "samples": 40, "labels": 1.0, "accuracy": [0.7]})
        quick = {**own, "ms": 0.5, "accuracy": 0.75}
        records.add({"kind": "fast", "seed": 0, "user": user, "samples": 40, "labels": 1.0, "live": True, "own": quick})
    found = summarise(records, plan)
    [setting] = found["settings"]
    assert setting["reached"] == 0.5 and setting["faster"]["mean"] == (1.0 + 4.0) / 2 and setting["below_full"] == 0.5
    assert setting["gain"]["mean"] == pytest.approx(-0.125) and setting["drop_met"] == 0.5
    assert setting["fast"]["reached"] == 1.0 and setting["fast"]["faster"]["mean"] == 8.0
    wins = {one["name"]: one["by_labels"][0]["wins"] for one in found["baselines"]}
    assert wins == {
        "as built, with early exits": False, "as built, full network": True, "as built, first exit alone": False,
        "whole network in PyTorch": True,
    }  # fmt: skip
    assert found["trials"] == {"done": 8, "planned": 10} and found["cost"] is None


def test_a_plan_in_order() -> None:
    plan = Plan(
        users=1, seeds=2, samples=(30, 300), labels=(1.0, 0.1, 0.0), baselines=("full", "hard"), baseline_users=3
    )
    assert plan.settings() == [(300, 1.0), (300, 0.1), (300, 0.0), (30, 1.0), (30, 0.0)]
    kinds = [(trial.kind, trial.seed, trial.labels) for trial in plan.trials()]
    compared = [("cost", 0, 1.0), ("full", 0, 1.0), ("full", 0, 0.1), ("hard", 0, 0.1), ("hard", 0, 0.0)]
    assert kinds[:8] == [
        ("user", 0, None),
        *[(kind, 0, share) for share in (1.0, 0.1) for kind in ("heads", "fast")],
        *[("heads", 0, share) for share in (0.0, 1.0, 0.0)],
    ]
    assert kinds[8:13] == compared and kinds[13] == ("user", 1, None) and len(kinds) == 21


def test_a_chart() -> None:
    assert chart([Line("none", [])], "x", "y") == ""
    drawn = chart([Line("a <line>", [(0, 1), (10, 3)]), Line("b", [(5, 2)], dashed=True)], "x", "y & z")
    read = Reader(drawn)
    assert "a <line>" in read.text and "y & z" in read.text and read.tags.count("circle") == 3
    assert [value for name, value in read.attributes if name == "cx"] == ["52.0", "628.0", "340.0"]
    flat = chart([Line("flat", [(1, 0.0), (2, 0.0)])], "x", "y")
    assert "NaN" not in flat and "inf" not in flat
