"""insert-exits --place, from labelled pictures to a program that answers early; its command and its picture."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from perse_compile import driver
from perse_compile.errors import DataError, DeviceError
from perse_compile.passes import analysis_pipeline
from perse_compile.passes.head_types import AUTO, make_exits
from perse_compile.personalise.calibrate import softmax
from perse_compile.personalise.data import Images
from perse_compile.personalise.features import normalise
from perse_compile.personalise.train_exits import train_exits
from perse_compile.pipeline import run
from perse_compile.placement import place as placing
from perse_compile.placement.budget import Budget
from perse_compile.placement.costs import head_macs
from perse_compile.placement.measured import Measured, MeasuredExit
from perse_compile.placement.page import check_can_draw, draw, placement_page
from perse_compile.placement.place import KEPT, Placement, Wishes, place
from perse_compile.placement.search import search
from perse_compile.placement.split import split
from perse_compile.program import Program
from perse_compile.verify import verify
from tests.artifacts import CLASSES, pictures, tiny_network
from tests.test_cli import call


def photos(count: int = 400, seed: int = 5) -> Images:
    return Images("pictures", *pictures(count, seed, noise=180), list(CLASSES), [""] * count)


def quiet(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def traced() -> Program:
    return tiny_network()


@pytest.fixture(scope="module")
def network(traced: Program) -> Program:
    return run(copy.deepcopy(traced), analysis_pipeline())


@pytest.fixture(scope="module")
def placed(network: Program) -> tuple[Program, Placement]:
    program = copy.deepcopy(network)
    return program, place(program, photos(), Wishes(Budget(max_drop=0.05), static=("0.5@0.9",)), tell=quiet)


def test_the_program_does_what_was_found(placed: tuple[Program, Placement]) -> None:
    program, found = placed
    verify(program)
    images = photos()
    assert images.labels is not None
    divided = split(images.labels, 0)
    exits = found.point.exits
    assert [exit.tap for exit in program.exits[:-1]] == [exit.tap for exit in exits] and exits
    with torch.no_grad():
        logits = program.module(normalise(torch.from_numpy(images.pixels[divided.report]), program.input))
    left, right, taken = np.ones(len(divided.report), bool), 0, []
    for exit, z in zip(program.exits, logits, strict=True):
        sure = softmax(z.numpy(), exit.temperature).max(1)
        mine = left & ((sure >= exit.threshold) | (exit.name == "final"))
        assert exit.enabled
        right += int((z.numpy().argmax(1) == images.labels[divided.report])[mine].sum())
        taken.append(float(mine.mean()))
        left &= ~mine
    assert found.point.report.accuracy == pytest.approx(right / len(divided.report))
    assert found.point.report.shares == pytest.approx(taken)
    assert program.levels is not None


def test_the_front_is_a_front_and_holds_the_full_network(placed: tuple[Program, Placement]) -> None:
    found = placed[1]
    costs, right = ([getattr(point.search, key) for point in found.front] for key in ("cost", "accuracy"))
    assert costs == sorted(costs) and right == sorted(right) and len(set(right)) == len(right)
    assert found.point.search.accuracy >= found.full[0].accuracy - 0.05 and found.point.search.cost < 0.9
    assert any(point.search.accuracy >= found.full[0].accuracy for point in found.front)
    assert (found.images, found.report_images) == (320, 80)


def test_provenance_is_short_json_of_all_that_matters(placed: tuple[Program, Placement], tmp_path: Path) -> None:
    program, found = placed
    program.save(tmp_path / "tiny.perse")
    told = Program.load(tmp_path / "tiny.perse").provenance["place"]
    assert told == json.loads(json.dumps(found.as_dict(KEPT))) and len(told["front"]) <= KEPT + 1
    chosen = told["front"][told["chosen"]]
    assert [exit["tap"] for exit in chosen["exits"]] == [exit.tap for exit in program.exits[:-1]]
    assert told["costs"] == {"source": "multiply-accumulates", "measured": False, "full_ms": None}
    assert told["points"] == len(found.front) == len(found.as_dict()["front"])
    assert "0.5@0.9" in told["verdict"][-1] and told["data"] == "pictures"


def test_train_exits_goes_on_from_there(placed: tuple[Program, Placement]) -> None:
    program = copy.deepcopy(placed[0])
    report = train_exits(program, photos(), epochs=2)
    assert [row.name for row in report.rows] == [exit.name for exit in program.exits] and "place" in program.provenance


def test_the_same_seed_gives_the_same_places(network: Program, placed: tuple[Program, Placement]) -> None:
    again = place(copy.deepcopy(network), photos(), Wishes(Budget(max_drop=0.05)), tell=quiet)
    assert again.as_dict()["front"] == placed[1].as_dict()["front"]


def test_names_are_the_candidates(network: Program) -> None:
    program = copy.deepcopy(network)
    found = place(program, photos(), Wishes(exits=2, names=("relu_1", "relu")), tell=quiet)
    assert [one.name for one in found.candidates] == ["relu", "relu_1"]
    assert {exit.tap for point in found.front for exit in point.exits} <= {"relu", "relu_1"}


def test_no_exit_pays_where_heads_are_dear(network: Program) -> None:
    program, macs = copy.deepcopy(network), {cut.node: cut.macs for cut in network.cuts}
    cut, classes = next(cut for cut in network.cuts if cut.node == "relu"), len(network.classes)
    work = head_macs(cut, make_exits([cut], classes, AUTO)[0], classes)
    exits = [MeasuredExit("relu", cut.macs, work, 1.0, 100.0), MeasuredExit("mean", max(macs.values()), 2, 1.0, 0.01)]
    easy = Images("easy", *pictures(200, 5), list(CLASSES), [])  # the full network knows them all
    found = place(program, easy, Wishes(names=("relu",)), Measured("invented times", 0.0, exits), tell=quiet)
    assert found.verdict == ["no exit pays: the front is the full network alone"]
    assert [exit.name for exit in program.exits] == ["final"] and found.why.endswith("loses at most 1.0 points")
    verify(program)


def test_ctrl_c_in_the_search_keeps_what_is_finished(network: Program, monkeypatch) -> None:
    def interrupted(answers, costs, most, tell):
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        return search(answers, costs, most, stop)

    monkeypatch.setattr(placing, "search", interrupted)
    found = place(copy.deepcopy(network), photos(), Wishes(), tell=quiet)
    assert found.found.interrupted and found.found.exits == 1
    assert "stopped" in placement_page("tiny", found)


def test_ctrl_c_at_the_command(data: Path, capsys, monkeypatch) -> None:
    def interrupted(answers, costs, most, tell):
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        return search(answers, costs, most, stop)

    def at_once(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(placing, "extract", at_once)
        assert call("insert-exits", "tiny", "--place", "photos.npz", monkeypatch=patch) == 130
        assert not (data / "tiny.perse").exists()
    monkeypatch.setattr(placing, "search", interrupted)
    assert call("insert-exits", "tiny", "--place", "photos.npz", monkeypatch=monkeypatch) == 130
    assert "(stopped: those with more were not all looked at)" in capsys.readouterr().out
    assert (data / "tiny.perse").exists()


def test_ctrl_c_before_changes_nothing(network: Program) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    program = copy.deepcopy(network)
    with pytest.raises(KeyboardInterrupt):
        place(program, photos(), Wishes(), tell=stop)
    assert program.exits == [] and "place" not in program.provenance


def test_measured_costs_are_milliseconds_of_an_artifact(artifact: Path, data: Path) -> None:
    program, found = driver.place_exits("tiny", data / "photos.npz", Wishes(Budget(max_ms=1e6)), costs=artifact)
    told = found.as_dict()
    assert told["costs"]["measured"] and told["costs"]["source"].startswith("milliseconds of tiny-x86_64-linux on ")
    assert told["front"][-1]["search"]["ms"] == pytest.approx(found.front[-1].search.cost * told["costs"]["full_ms"])
    assert found.why.startswith("the most accurate that costs at most 1000000.000 ms")
    assert program.exits[-1].name == "final"


# --- the picture ------------------------------------------------------------------------------------------


def test_the_page_tells_every_figure(placed: tuple[Program, Placement], tmp_path: Path) -> None:
    found = placed[1]
    draw("tiny", found, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert page.count('class="chosen"') == 1 and page.count("<svg") == 1 and "http" not in page
    for point in found.front:
        assert f"<td>{100 * point.search.accuracy:.1f} %</td>" in page
    assert found.verdict[0] in page
    draw("tiny", found, tmp_path / "front.svg")
    picture = ElementTree.parse(tmp_path / "front.svg").getroot()
    circles = picture.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 * len(found.front) + len(found.candidates) + 4


def test_pictures_that_cannot_be_drawn(placed: tuple[Program, Placement], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("front.png must end in .html or .svg")):
        check_can_draw(Path("front.png"))
    with pytest.raises(DataError, match=r"no folder nowhere to write front\.svg to"):
        check_can_draw(Path("nowhere/front.svg"))
    (tmp_path / "front.svg").mkdir()
    with pytest.raises(DeviceError, match="cannot write"):
        draw("tiny", placed[1], tmp_path / "front.svg")


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def data(traced: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("perse_compile.trace.trace_model", lambda *_: copy.deepcopy(traced))
    np.savez("photos.npz", images=photos(200).pixels, labels=photos(200).labels)
    return tmp_path


def test_the_command_prints_the_front_and_writes(data: Path, capsys, monkeypatch) -> None:
    words = ("insert-exits", "tiny", "--place", "photos.npz", "--exits", "2", "--max-cost", "0.7", "--plot", "f.svg")
    assert call(*words, monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    for text in (
        "160 images trained heads and were searched, 40 others report; cost by multiply-accumulates",
        "all cascades of at most 2 of 3 candidates with 16 thresholds each",
        "chosen: the most accurate that costs at most 70.0 %",
        "tiny.perse: 3x32x32",
    ):
        assert text in told, text
    assert (data / "f.svg").exists() and Program.load(data / "tiny.perse").exits[-1].name == "final"
    assert call(*words[:-2], "--json", monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["place"]["budget"] == {"max_ms": None, "max_cost": 0.7, "max_drop": None}
    assert found["place"]["search"]["exits"] == 2 and len(found["place"]["front"]) == found["place"]["points"]
    assert [exit["tap"] for exit in found["exits"][:-1]] == [
        exit["tap"] for exit in found["place"]["front"][found["place"]["chosen"]]["exits"]
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-drop", "0.1"), "--max-drop needs images to search on; give --place DATA as well"),
        (("--place", "photos.npz", "--exits", "0"), "--exits 0 is not a positive number"),
        (("--place", "photos.npz", "--max-latency", "3"), "--max-latency needs measured times"),
        (("--place", "photos.npz", "--max-cost", "0.001"), "no cascade costs at most 0.1 %; the cheapest costs"),
        (("--place", "photos.npz", "--static", "best"), "--static 'best' is not ACCURACY@COST"),
        (("--place", "photos.npz", "--plot", "f.png"), "must end in .html or .svg"),
        (("--place", "photos.npz", "--costs", "nowhere"), "no artifact at nowhere"),
        (("--place", "nowhere"), "nowhere does not exist"),
        (("--place", "unlabelled.npz"), "unlabelled.npz has no labels"),
        (("--place", "few.npz"), "few.npz has 30 labelled images; --place needs at least 60"),
        (("--place", "shape.npz"), "`images` has shape (5, 5)"),
        (("--place", "photos.npz", "--exits", "relu,nowhere"), "no node named 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_one_line(data: Path, capsys, monkeypatch, words: tuple[str, ...], message: str) -> None:
    np.savez("unlabelled.npz", images=photos(100).pixels)
    np.savez("few.npz", images=photos(30).pixels, labels=photos(30).labels)
    np.savez("shape.npz", images=np.zeros((5, 5), np.uint8))
    assert call("insert-exits", "tiny", *words, monkeypatch=monkeypatch) == 1
    told = capsys.readouterr().err.strip()
    assert message in told and told.count("\n") == 0 and not (data / "tiny.perse").exists()
