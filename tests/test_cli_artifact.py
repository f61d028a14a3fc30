"""build, personalise, evaluate, run, doctor, train-exits: for people, as JSON, and when it fails."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perse_compile import cli, devices, doctor, driver
from perse_compile.building import build as building
from perse_compile.building.build import Built
from perse_compile.doctor import Finding
from perse_compile.program import Program
from tests.artifacts import CLASSES, checksums, pictures, through_another_camera


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)


@pytest.fixture
def complains(call: Callable[..., tuple[str, str]]) -> Callable[..., str]:
    """One line on stderr, nothing on stdout, exit status 1."""

    def run(*words: str | Path) -> str:
        out, err = call(*words, code=1)
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
        return err

    return run


@pytest.fixture
def quick(build_tiny: Callable[[str], Built], monkeypatch: pytest.MonkeyPatch) -> None:
    """Building copies a finished artifact instead of compiling."""
    ready = build_tiny("x86_64-linux").artifact.folder

    def copy(network: Any, probes: Any, work: Path, fresh: Path, say: Any) -> None:
        shutil.copytree(ready, fresh, dirs_exist_ok=True)

    monkeypatch.setattr(building, "_write_files", copy)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    pixels, labels = pictures(120, 20)
    np.savez(tmp_path / "mine.npz", images=through_another_camera(pixels), labels=labels, class_names=list(CLASSES))
    return tmp_path / "mine.npz"


# --- build ------------------------------------------------------------------------------------------------


def test_build(tiny: Program, call: Any, quick: None) -> None:
    tiny.save(Path("tiny.perse"))
    out, err = call("build", "--target", "x86_64-linux")
    assert "verified on this machine: a confident exit 0 runs 1 of 3 stages" in out and "WARNING" not in err
    for word in ("exit0", "exit1", "final", "difference to PyTorch", "tiny-x86_64-linux", "report.html", "KB", "MB"):
        assert word in out
    assert Path("tiny-x86_64-linux/perse").exists()
    out, _ = call("build", "tiny.perse", "--target", "x86_64-linux", "-o", "elsewhere", "--json")
    found = json.loads(out)
    assert (found["artifact"], found["target"], found["verified_on"]) == ("elsewhere", "x86_64-linux", "local")
    assert found["selftest"]["ok"] and found["bytes"]["perse"] == Path("elsewhere/perse").stat().st_size


@pytest.mark.parametrize("json_too", [False, True])
def test_not_verified(tiny: Program, call: Any, quick: None, monkeypatch: pytest.MonkeyPatch, json_too: bool) -> None:
    monkeypatch.setattr(devices, "any_device", lambda machine, emulator: None)
    tiny.save(Path("tiny.perse"))
    out, err = call("build", "--target", "x86_64-linux", *(["--json"] if json_too else []))
    assert "WARNING" in err and "not verified" in err and "./perse selftest" in err and "verified on" not in out
    if json_too:
        assert json.loads(out)["verified_on"] is None and json.loads(out)["selftest"] is None


def test_build_without_an_emulator_on_the_path(
    tiny: Program, call: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    tiny.save(Path("tiny.perse"))
    _, err = call("build", "--target", "arm64-android")
    assert "not verified" in err and "apt-get install qemu-user-static" in " ".join(err.replace("│", "").split())


def test_build_complains(tiny: Program, artifact: Path, complains: Any) -> None:
    assert "no .perse program in this folder" in complains("build", "--target", "x86_64-linux")
    tiny.save(Path("a.perse"))
    assert "unknown target 'toaster'; known: arm64-android" in complains("build", "--target", "toaster")
    assert "no target file board.toml" in complains("build", "--target", "board.toml")
    Path("board.toml").write_text("colour = 1\n")
    assert "board.toml has an unknown key 'colour'" in complains("build", "--target", "board.toml")
    Path("b.perse").write_bytes(b"hello")
    assert "several programs in this folder: a.perse, b.perse" in complains("build", "--target", "x86_64-linux")
    assert "b.perse is not a .perse program" in complains("build", "b.perse", "--target", "x86_64-linux")
    assert "is there and is not an artifact" in complains(
        "build", "a.perse", "--target", "x86_64-linux", "-o", "a.perse"
    )


def test_build_wants_a_target(call: Any) -> None:
    assert "--target" in call("build", code=2)[1]


# --- personalise and what follows -------------------------------------------------------------------------


def test_personalise(artifact: Path, mine: Path, call: Any) -> None:
    files = checksums(artifact)
    out, _ = call("personalise", artifact, "--data", mine, "--device", "local", "--threads", "2", "--seed", "3")
    assert "the new heads are better and in use" in out and "--rollback" in out
    assert all(word in out for word in ("accuracy before", "share before", "exit0", "final", "mean cost", "together"))
    assert checksums(artifact)["heads.pack"] != files["heads.pack"]
    assert "the heads before" in call("personalise", artifact, "--rollback")[0]
    assert checksums(artifact)["heads.pack"] == files["heads.pack"]
    assert json.loads(call("personalise", artifact, "--rollback", "--json")[0])["generation"] == 1
    assert "factory heads" in call("personalise", artifact, "--reset")[0]
    assert checksums(artifact)["heads.pack"] == files["heads.pack"]
    out, _ = call("personalise", artifact, "--data", mine, "--json", "--epochs", "10", "--max-drop", "0.05")
    found = json.loads(out)
    assert found["live"] and found["labelled"] and found["samples"]["judged"] > 0
    assert {e["name"] for e in found["exits"]} == {"exit0", "exit1", "final"}


def test_personalise_for_speed(artifact: Path, mine: Path, call: Any) -> None:
    words = ("personalise", artifact, "--data", mine, "--max-drop", "0")
    own = json.loads(call(*words, "--json")[0])["after"]
    call("personalise", artifact, "--reset")
    quick = json.loads(call(*words, "--against", "factory", "--json")[0])["after"]
    assert quick["cost"] <= own["cost"]
    call("personalise", artifact, "--reset")
    assert "a mean cost of 0.1% cannot be had" in call(*words, "--max-cost", "0.001")[0]


def test_personalise_without_labels(artifact: Path, tmp_path: Path, call: Any) -> None:
    np.savez(tmp_path / "unlabelled.npz", images=through_another_camera(pictures(100, 33)[0]))
    out, _ = call("personalise", artifact, "--data", tmp_path / "unlabelled.npz")
    assert "agreement" in out and "teacher" in out
    assert "an answer tells" in out and "nats as it is" in out
    out, _ = call("personalise", artifact, "--data", tmp_path / "unlabelled.npz", "--no-levels")
    assert "camera not corrected: not wanted" in out


def test_personalise_leaves_out_what_cannot_be_read(artifact: Path, tmp_path: Path, call: Any) -> None:
    images = pictures(100, 33)[0]
    images[1::2] = np.random.default_rng(0).integers(250, 256, images[1::2].shape)  # white, give or take a little
    np.savez(tmp_path / "white.npz", images=images)
    out, _ = call("personalise", artifact, "--data", tmp_path / "white.npz", "--no-levels")
    assert "50 left out: they are as from another camera, and the network cannot read them" in " ".join(out.split())


def test_personalise_with_a_cache(artifact: Path, mine: Path, call: Any, complains: Any) -> None:
    assert "cache: 120 images" in call("personalise", artifact, "--data", mine, "--cache")[0]
    found = json.loads(call("personalise", artifact, "--data", mine, "--budget", "80kB", "--json")[0])["cache"]
    assert found["samples"] == found["room"] < 120 and found["bytes"] <= found["budget"] == 80000
    assert (artifact / "cache.bin").stat().st_size == found["bytes"]
    message = complains("personalise", artifact, "--data", mine, "--budget", "1B")
    assert "the budget has no room for one image" in message
    (artifact / "cache.bin").write_bytes(b"PERSEFEA")
    assert "cache.bin: copy the file again" in complains("personalise", artifact, "--data", mine, "--cache")


def test_estimate(artifact: Path, mine: Path, call: Any) -> None:
    assert "200 images to see, 200 to learn from: about" in call("estimate", artifact, "--images", "200")[0]
    found = json.loads(call("estimate", artifact, "--json", "--threads", "2", "--cache")[0])
    assert found["images"] == found["samples"] == 300 and 0 < found["seconds"] < found["seconds_at_most"]
    assert call("personalise", artifact, "--data", mine)[0].startswith("120 images to see")


def test_exits(artifact: Path, call: Any, complains: Any) -> None:
    assert "at worst" in call("exits", artifact, "--disable", "exit0")[0]
    found = json.loads(call("exits", artifact, "--json")[0])
    assert not found["exits"][0]["enabled"] and found["exits"][2]["enabled"]
    assert json.loads(call("exits", artifact, "--enable", "exit0", "--json")[0])["exits"][0]["enabled"]
    assert "no such exit: nine" in complains("exits", artifact, "--enable", "nine")


def test_packs(artifact: Path, mine: Path, call: Any, complains: Any) -> None:
    own = checksums(artifact)["heads.pack"]
    out, _ = call("personalise", artifact, "--data", mine, "--pack", "anna")
    assert (
        "packs/anna/heads.pack" in out.replace("\n", "") and checksums(artifact / "packs" / "anna")["heads.pack"] != own
    )
    out, _ = call("packs", artifact)
    assert "anna" in out and "personalised" in out and "(the artifact's own)" in out and "factory" in out
    assert [pack["name"] for pack in json.loads(call("packs", artifact, "--json")[0])["packs"]] == ["", "anna"]
    ours, hers = (
        json.loads(call("evaluate", artifact, "--data", mine, "--json", *more)[0])["accuracy"]
        for more in ([], ["--pack", "anna"])
    )
    assert hers > ours
    Image.fromarray(pictures(1, 5)[0][0]).save("b.png")
    assert "b.png" in call("run", artifact, "b.png", "--pack", "anna")[0]
    assert "packs/anna/heads.pack: the heads before" in call("personalise", artifact, "--rollback", "--pack", "anna")[0]
    assert "packs/ben" in complains("evaluate", artifact, "--data", mine, "--pack", "ben")
    assert "not a name for a pack" in complains("run", artifact, "b.png", "--pack", "../ben")


def test_evaluate(artifact: Path, mine: Path, call: Any) -> None:
    out, _ = call("evaluate", artifact, "--data", mine)
    assert "120 images" in out and "exit1" in out and "accuracy" in out
    found = json.loads(call("evaluate", artifact, "--data", mine, "--json")[0])
    assert found["samples"] == 120 and 0 <= found["accuracy"] <= 1 and 0 < found["cost"] < 1.1
    assert abs(sum(e["share"] for e in found["exits"]) - 1) < 1e-6


def test_run(artifact: Path, tmp_path: Path, call: Any) -> None:
    for name in ("a [b].png", "b.jpg"):
        Image.fromarray(pictures(1, 5)[0][0]).save(tmp_path / name)
    out, _ = call("run", artifact, "a [b].png", "b.jpg")
    assert "a [b].png" in out and CLASSES[0] in out and "%" in out
    found = json.loads(call("run", artifact, "b.jpg", "--json")[0])["results"]
    assert found[0]["image"] == "b.jpg" and found[0]["name"] == CLASSES[0]


def test_artifacts_complain(artifact: Path, mine: Path, tmp_path: Path, complains: Any) -> None:
    assert "nothing to learn from; give --data DIR, or --rollback, or --reset" in complains("personalise", artifact)
    assert "no previous heads" in complains("personalise", artifact, "--rollback")
    assert "no artifact at nowhere; `perse-compile build` makes one" in complains("run", "nowhere", "x.png")
    assert "x.png does not exist" in complains("run", artifact, "x.png")
    assert "unknown device 'phone'" in complains("evaluate", artifact, "--data", mine, "--device", "phone")
    np.savez(tmp_path / "unlabelled.npz", images=np.load(mine)["images"])
    assert "images without labels" in complains("evaluate", artifact, "--data", "unlabelled.npz")
    (artifact / "heads.pack").write_bytes(b"PERSEPAK")
    assert "heads.pack is damaged or cut short" in complains("evaluate", artifact, "--data", mine)


@pytest.mark.arm
def test_another_machines_artifact(build_tiny: Callable[[str], Built], mine: Path, call: Any, complains: Any) -> None:
    from tests.artifacts import emulator

    emulator("arm64-android")
    folder = build_tiny("arm64-android").artifact.folder
    assert "add --device emulator to run it here" in complains("evaluate", folder, "--data", mine)
    out, _ = call("evaluate", folder, "--data", mine, "--device", "emulator", "--json")
    assert json.loads(out)["samples"] == 120


# --- the rest ---------------------------------------------------------------------------------------------


def test_train_exits(tiny: Program, tmp_path: Path, call: Any, complains: Any) -> None:
    pixels, labels = pictures(200, 40)
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    tiny.save(Path("tiny.perse"))
    before = Path("tiny.perse").read_bytes()
    out, _ = call("train-exits", "tiny.perse", "--data", "data.npz", "--epochs", "3", "-o", "new.perse")
    assert "new.perse" in out and "exit0" in out and Path("tiny.perse").read_bytes() == before
    found = json.loads(call("train-exits", "tiny.perse", "--data", "data.npz", "--epochs", "3", "--json")[0])
    assert found["program"] == "tiny.perse" and Path("tiny.perse").read_bytes() == Path("new.perse").read_bytes()
    assert "none.perse: No such file" in complains("train-exits", "none.perse", "--data", "data.npz")
    assert "nothing does not exist" in complains("train-exits", "tiny.perse", "--data", "nothing")


def test_doctor(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Finding("Python", "3.12", True), Finding("zig [x]", "missing", False, "pip install ziglang")
    monkeypatch.setattr(doctor, "examine", lambda: [good])
    assert "✓ Python" in call("doctor")[0]
    monkeypatch.setattr(doctor, "examine", lambda: [good, bad])
    out, _ = call("doctor", code=1)
    assert "✗ zig [x]" in out and "pip install ziglang" in out
    assert json.loads(call("doctor", "--json", code=1)[0])["findings"][1]["advice"] == "pip install ziglang"


def test_a_bug_in_a_command_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["perse-compile", "targets"])
    monkeypatch.setattr(driver, "list_targets", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()
