"""The C runtime on a mock network: its own tests under sanitizers, and the executable from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perse_compile.personalise.levels import measure_levels

HERE = Path(__file__).parent / "runtime"
RUNTIME = Path(__file__).parent.parent / "perse_compile" / "runtime"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
LIBRARY = sorted(RUNTIME.glob("*.c"))
EXECUTABLE = [*LIBRARY, *sorted(RUNTIME.glob("program/*.c"))]


def compile_c(compiler: list[str], flags: list[str], sources: list[Path], include: Path, out: Path) -> None:
    command = [*compiler, *WARNINGS, *flags, f"-I{include}", f"-I{RUNTIME}", f"-I{RUNTIME}/program", *map(str, sources)]
    command += ["-lm", "-pthread", "-o", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mock")
    subprocess.run([sys.executable, str(HERE / "make_artifact.py"), str(folder)], check=True)
    compile_c(["gcc"], SANITIZERS, [*EXECUTABLE, HERE / "mock_plan.c"], folder, folder / "perse")
    return folder


@pytest.fixture
def artifact(factory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(factory, tmp_path / "artifact"))


def perse(artifact: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the executable's memory lives as long as it does
    command = [str(artifact / "perse"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == code, result.stdout + result.stderr
    return result


def answer(artifact: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(perse(artifact, *arguments, "--json", code=code).stdout)
    return result


def error(artifact: Path, *arguments: object, code: int = 1) -> str:
    result = perse(artifact, *arguments, code=code)
    assert re.fullmatch(r"(\d+ images to see, .*\n)?", result.stdout)  # the estimate may have come before
    assert result.stderr.startswith("perse: ") and result.stderr.count("\n") == 1
    return result.stderr


THREADED = ("open", "cascade", "kernel_failures", "training_step", "threads_agree", "worst_case")


@pytest.mark.parametrize("sanitizers, only", [("address,undefined", ()), ("thread", THREADED)])
def test_library(factory: Path, tmp_path: Path, sanitizers: str, only: tuple[str, ...]) -> None:
    flags = ["-g", "-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-Wl,--wrap=pthread_create"]
    compile_c(
        ["gcc"], flags, [*LIBRARY, HERE / "mock_plan.c", HERE / "test_runtime.c"], factory, tmp_path / "test_runtime"
    )
    (tmp_path / "scratch").mkdir()
    result = subprocess.run(
        [tmp_path / "test_runtime", factory, tmp_path / "scratch", *only], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(f"ok {name}\n" in result.stdout for name in only)


@pytest.mark.parametrize("target", ["x86_64-linux-musl", "aarch64-linux-musl", "arm-linux-musleabihf"])
def test_cross_builds(factory: Path, artifact: Path, tmp_path: Path, target: str) -> None:
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target]
    compile_c(
        compiler,
        ["-O2", "-static", "-fno-sanitize=undefined"],
        [*EXECUTABLE, HERE / "mock_plan.c"],
        factory,
        artifact / "perse",
    )
    emulator = {"x": [], "a": [f"qemu-{target.split('-')[0]}-static"]}[target[0]]
    path = shutil.which(emulator[0]) if emulator else ""
    assert path is not None, "install qemu-user-static"
    run = [*([path] if path else []), str(artifact / "perse")]
    subprocess.run([*run, "selftest", "--threads", "2"], check=True, capture_output=True)
    command = [*run, "personalise", str(artifact / "user_x.npy"), "--labels", str(artifact / "user_y.npy"), "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert result["live"] and result["after"]["accuracy"] > result["before"]["accuracy"]


def test_help_teaches(artifact: Path) -> None:
    text = perse(artifact, "--help").stdout
    for command in (
        "info",
        "selftest",
        "run",
        "evaluate",
        "personalise",
        "calibrate",
        "bench",
        "packs",
        "rollback",
        "reset",
    ):
        assert command in text
        assert f"usage: perse {command}" in perse(artifact, command, "--help").stdout
    assert perse(artifact, code=2).stdout == text


def test_info(artifact: Path) -> None:
    result = answer(artifact, "info")
    assert (result["name"], result["classes"], result["generation"]) == ("mock", 5, 0)
    assert result["class_names"][2] == '"cat"\n'
    assert [e["name"] for e in result["exits"]] == ["exit0", "exit1", "final"]
    assert "mock for test" in perse(artifact, "info").stdout


def test_selftest(artifact: Path) -> None:
    result = answer(artifact, "selftest")
    assert result["ok"] and result["confident_exit_stages"] == 1
    assert [e["stages"] for e in result["exits"]] == [1, 2, 3]
    assert all(e["max_rel_diff"] < 1e-3 for e in result["exits"])
    assert "selftest passed" in perse(artifact, "selftest").stdout


def test_selftest_fails_on_wrong_answers(factory: Path, artifact: Path) -> None:
    broken = artifact / "mock_plan.c"
    broken.write_text((HERE / "mock_plan.c").read_text().replace("/ 255.0f - 0.5f", "/ 255.0f - 0.4f"))
    compile_c(["gcc"], ["-O1"], [*EXECUTABLE, broken], factory, artifact / "perse")
    result = answer(artifact, "selftest", code=1)
    assert not result["ok"] and result["exits"][0]["max_rel_diff"] > 1e-3


def test_run(artifact: Path) -> None:
    images = np.load(artifact / "generic_x.npy")
    np.save(artifact / "one.npy", images[0])
    forced = [answer(artifact, "run", artifact / "one.npy", "--exit", e) for e in range(3)]
    assert [f["stages"] for f in forced] == [1, 2, 3]
    assert [f["exit_name"] for f in forced] == ["exit0", "exit1", "final"]
    np.save(artifact / "float.npy", images[0].astype(np.float32) / 255 - 0.5)
    same = answer(artifact, "run", artifact / "float.npy", "--exit", 2, "--threads", 2)
    assert same["label"] == forced[2]["label"]
    assert same["confidence"] == pytest.approx(forced[2]["confidence"], rel=1e-4)
    assert "confidence" in perse(artifact, "run", artifact / "one.npy").stdout
    assert "no such exit" in error(artifact, "run", artifact / "one.npy", "--exit", 3, code=2)


def test_evaluate_and_bench(artifact: Path) -> None:
    data = artifact / "generic_x.npy", "--labels", artifact / "generic_y.npy"
    result = answer(artifact, "evaluate", *data)
    assert result["samples"] == 300 and 0.5 < result["accuracy"] < 1
    assert sum(e["share"] for e in result["exits"]) == pytest.approx(1)
    assert answer(artifact, "evaluate", data[0])["accuracy"] is None
    assert "% accurate at" in perse(artifact, "evaluate", *data).stdout
    assert "together at" in (text := perse(artifact, "evaluate", data[0]).stdout) and "nan" not in text
    times = answer(artifact, "bench", "--runs", 5)
    assert times["full_ms"] == times["exits"][2]["ms"] > 0
    assert all(len(times[key]) == 3 and times[key][0]["ms"] > 0 for key in ("exits", "stages", "heads"))


def test_personalise_rollback_reset(artifact: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    data = artifact / "user_x.npy", "--labels", artifact / "user_y.npy"
    result = perse(artifact, "personalise", *data, "--json", "--progress")
    report = json.loads(result.stdout)
    assert report["live"] and report["generation"] == 1 and report["labelled"]
    assert report["after"]["accuracy"] > report["before"]["accuracy"]
    assert report["cache_bytes"] == 300 * 72 * 2
    assert report["samples"] == {"train": 300, "judged": 300, "left_out": 0}
    assert "progress features 300 300" in result.stderr and "progress gate 1 1" in result.stderr
    changed = {path.name for path in artifact.iterdir() if before.get(path.name) != path.read_bytes()}
    assert changed == {"heads.pack", "heads.pack.previous"}
    assert answer(artifact, "rollback") == {"generation": 0}
    assert (artifact / "heads.pack").read_bytes() == before["heads.pack"]
    assert answer(artifact, "rollback") == {"generation": 1}
    assert answer(artifact, "calibrate", *data)["generation"] == 2
    assert answer(artifact, "reset") == {"generation": 0}


def test_another_camera(artifact: Path) -> None:
    data = artifact / "user_x.npy", "--labels", artifact / "user_y.npy"
    before = answer(artifact, "evaluate", *data)["accuracy"]
    assert "camera: as it is" in perse(artifact, "info").stdout
    report = answer(artifact, "personalise", data[0])  # no labels
    levels = report["levels"]
    assert report["live"] and (levels["tried"], levels["taken"], levels["live"], levels["why"]) == (
        True,
        True,
        True,
        "",
    )
    assert levels["information_after"] > levels["information_before"] + 0.1
    assert levels["confidence_after"] > levels["confidence_before"] + 0.03
    for name, pixels in (("measured", np.load(data[0])), ("factory", None)):
        ends = np.array(levels[name])
        assert ends.shape == (3, 2) and (ends[:, 0] < ends[:, 1]).all()
        if pixels is not None:
            np.testing.assert_array_equal(ends.astype(np.float32), np.float32(measure_levels(pixels)))
    info = answer(artifact, "info")["levels"]
    assert info == {"corrected": True, "factory": levels["factory"], "camera": levels["measured"]}
    assert "camera: corrected, levels 127 to 218 as 35 to 217" in perse(artifact, "info").stdout
    assert answer(artifact, "evaluate", *data)["accuracy"] > before + 0.2
    answer(artifact, "rollback")
    assert not answer(artifact, "info")["levels"]["corrected"]
    answer(artifact, "rollback")
    again = answer(artifact, "personalise", data[0])["levels"]  # the same levels are in use already
    assert (again["tried"], again["live"], again["why"]) == (False, False, "as in training")


def test_a_camera_as_in_training(artifact: Path) -> None:
    images = artifact / "generic_x.npy"
    reports = [answer(artifact, "personalise", images), answer(artifact, "reset")]
    reports.append(answer(artifact, "personalise", images, "--no-levels"))
    levels = [reports[0]["levels"], reports[2]["levels"]]
    assert levels[0]["tried"] and not levels[0]["taken"] and not levels[0]["live"]
    assert levels[0]["information_after"] < levels[0]["information_before"] + 0.1
    assert (levels[1]["tried"], levels[1]["why"], levels[1]["information_after"]) == (False, "not wanted", None)
    for key in ("before", "after", "exits", "verdict", "generation"):
        assert reports[0][key] == reports[2][key]


def test_cameras_that_take_turns(artifact: Path) -> None:
    """What is looked at is from both, though every third image is from the other camera, and every third is enough."""
    images = np.load(artifact / "generic_x.npy")
    images[2::3] = 127 + (images[2::3] - 127.0) * 0.2
    np.save(artifact / "turns.npy", images)
    levels = answer(artifact, "personalise", artifact / "turns.npy")["levels"]
    assert levels["tried"] and not levels["taken"] and levels["information_before"] > 0.4  # 0.04 of every third alone


def test_a_camera_that_cannot_be_read(artifact: Path) -> None:
    """Every other image is white, give or take a little."""
    images = np.load(artifact / "generic_x.npy")
    images[1::2] = np.random.default_rng(0).integers(250, 256, images[1::2].shape)
    np.save(artifact / "white.npy", images)
    words = "personalise", artifact / "white.npy", "--no-levels"
    assert answer(artifact, *words)["samples"] == {"train": 150, "judged": 150, "left_out": 150}
    answer(artifact, "reset")
    assert "150 samples left out: they are as from another camera" in perse(artifact, *words).stdout


def test_a_correction_alone(artifact: Path) -> None:
    """Nothing learnt: the old heads stay, and so does the camera's correction, unless the heads are personal."""
    images, heads = artifact / "user_x.npy", artifact / "heads.pack"
    words = "personalise", images, "--epochs", 1, "--learning-rate", "1e-9", "--max-drop", 1
    factory = heads.read_bytes()
    report = answer(artifact, *words)
    assert report["verdict"].startswith("kept the old heads") and report["live"] and report["generation"] == 1
    assert report["levels"]["live"] and answer(artifact, "info")["levels"]["corrected"]
    assert heads.read_bytes()[-2000:] == factory[-2000:]
    answer(artifact, "reset")
    assert "with the camera corrected" in perse(artifact, *words).stdout
    answer(artifact, "reset")
    generic = artifact / "generic_x.npy", "--labels", artifact / "generic_y.npy"
    assert answer(artifact, "personalise", *generic)["live"]
    personal = heads.read_bytes()
    report = answer(artifact, *words)
    assert not report["live"] and report["levels"]["taken"] and not report["levels"]["live"]
    assert heads.read_bytes() == personal
    assert "camera corrected for this training only" in perse(artifact, *words).stdout


def test_a_clipped_camera(artifact: Path) -> None:
    bright = np.clip(np.load(artifact / "generic_x.npy") + 110.0, 0, 255).astype(np.uint8)
    np.save(artifact / "bright.npy", bright)
    words = "personalise", artifact / "bright.npy", "--labels", artifact / "generic_y.npy"
    levels = answer(artifact, *words)["levels"]
    assert (levels["tried"], levels["live"], levels["why"]) == (False, False, "clipped images")
    assert "camera not corrected: clipped images" in perse(artifact, *words).stdout
    assert not answer(artifact, "info")["levels"]["corrected"]


def test_cache(artifact: Path) -> None:
    images, labels = np.load(artifact / "user_x.npy"), np.load(artifact / "user_y.npy")
    for part, of_it in (("a", labels < 2), ("b", labels >= 2)):
        np.save(artifact / f"{part}_x.npy", images[of_it])
        np.save(artifact / f"{part}_y.npy", labels[of_it])
    for part, known in (("a", (labels < 2).sum()), ("b", 300), ("a", 300)):
        data = artifact / f"{part}_x.npy", "--labels", artifact / f"{part}_y.npy"
        report = answer(artifact, "personalise", *data, "--cache")
        assert report["cache"]["samples"] == report["cache"]["labelled"] == known
        assert report["samples"] == {"train": known, "judged": known, "left_out": 0}
    size = (artifact / "cache.bin").stat().st_size
    assert size == report["cache"]["bytes"] == 64 + 4 * 7 + 2 * 64 + 300 * (8 + 2 * 72)
    elsewhere = artifact / "other.bin"
    words = ["personalise", *data, "--cache-file", elsewhere, "--budget", "9.4kB"]
    assert "cache: 60 images, 60 of them labelled, 9.3 of 9.4 kB" in perse(artifact, *words).stdout
    assert elsewhere.stat().st_size <= 9400 and (artifact / "cache.bin").stat().st_size == size
    elsewhere.write_bytes(b"PERSEFEA")
    assert f"file length is wrong: {elsewhere}" in error(artifact, *words)
    (artifact / "cache.bin").write_bytes(b"x" * 64)
    assert f"not a perse file: {artifact / 'cache.bin'}" in error(artifact, "personalise", *data, "--cache")
    np.save(artifact / "few.npy", images[:10])
    (artifact / "cache.bin").unlink()
    assert "too few samples" in error(artifact, "personalise", artifact / "few.npy", "--cache")
    assert (artifact / "cache.bin").exists()  # the next ones may be enough


def test_cache_and_camera(artifact: Path) -> None:
    """The camera is corrected before the first image is kept; features seen in another way are refused."""
    user = "personalise", artifact / "user_x.npy", "--cache"
    assert answer(artifact, *user)["levels"]["live"]
    again = answer(artifact, *user)["levels"]
    assert not again["tried"] and again["why"] == "it stays as the cache has seen it"
    answer(artifact, "reset")
    assert f"of another artifact or camera: {artifact / 'cache.bin'}" in error(artifact, *user)


def test_packs(artifact: Path) -> None:
    own = (artifact / "heads.pack").read_bytes()
    data = artifact / "user_x.npy", "--labels", artifact / "user_y.npy"
    assert answer(artifact, "packs") == {"packs": [{"name": "", "sound": True, "generation": 0, "new_classes": []}]}
    assert answer(artifact, "personalise", *data, "--pack", "anna", "--cache")["live"]
    ours, hers = (answer(artifact, "evaluate", *data, *more)["accuracy"] for more in ([], ["--pack", "anna"]))
    assert hers > ours + 0.1 and (artifact / "heads.pack").read_bytes() == own
    np.save(artifact / "one.npy", np.load(data[0])[0])
    said = {answer(artifact, "run", artifact / "one.npy", *more)["confidence"] for more in ([], ["--pack", "anna"])}
    assert len(said) == 2
    assert {path.name for path in (artifact / "packs" / "anna").iterdir()} == {
        "heads.pack",
        "heads.pack.previous",
        "cache.bin",
    }
    assert answer(artifact, "rollback", "--pack", "anna") == {"generation": 0}
    assert answer(artifact, "rollback", "--pack", "anna") == {"generation": 1}
    assert "generation 1" in perse(artifact, "packs").stdout
    (artifact / "packs" / "a file").write_text("not a pack")
    damaged = artifact / "packs" / "anna" / "heads.pack"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert answer(artifact, "packs")["packs"][1:] == [
        {"name": "anna", "sound": False, "generation": 0, "new_classes": []}
    ]
    assert "anna                     file length is wrong\n" in perse(artifact, "packs").stdout
    assert f"file length is wrong: {damaged}" in error(artifact, "info", "--pack", "anna")
    assert answer(artifact, "reset", "--pack", "anna") == {"generation": 0}
    assert f"no such file: {artifact}/packs/ben" in error(artifact, "info", "--pack", "ben")
    assert "not a name for a pack: ../anna" in error(artifact, "info", "--pack", "../anna")
    shutil.rmtree(artifact / "packs")
    (artifact / "packs").write_text("")
    assert "Not a directory" in error(artifact, "packs")


def test_estimate(artifact: Path) -> None:
    data = artifact / "user_x.npy", "--labels", artifact / "user_y.npy"
    found = answer(artifact, "estimate", "--images", "300", "--threads", "2")
    assert (found["images"], found["samples"], found["epochs_at_most"]) == (300, 300, 40)
    assert 0 < found["seconds"] < found["seconds_at_most"] and found["core_seconds"] == pytest.approx(
        2 * found["seconds"]
    )
    assert "300 images to see, 300 to learn from: about" in perse(artifact, "estimate").stdout
    assert perse(artifact, "personalise", *data).stdout.startswith("300 images to see")  # before it trains
    report = answer(artifact, "personalise", *data, "--cache", "--budget", "20kB", "--epochs", "5")["estimate"]
    assert report["epochs_at_most"] == 5 and (report["images"], report["samples"]) == (300, 130)
    labelled = answer(artifact, "personalise", *data)["estimate"]
    assert labelled["seconds_at_most"] / labelled["seconds"] < 1 + 200 / 300 + 0.01  # two more looks at 100 images
    unlabelled = answer(artifact, "personalise", data[0])["estimate"]
    assert unlabelled["seconds_at_most"] / unlabelled["seconds"] > 1.7  # images may be compared, and learnt from twice
    more = answer(artifact, "estimate", "--images", "10", "--cache")
    assert (more["images"], more["samples"]) == (10, 140)
    assert not (artifact / "cache.bin.new").exists()


def test_watch(artifact: Path) -> None:
    images, heads = np.load(artifact / "generic_x.npy"), (artifact / "heads.pack").read_bytes()
    np.save(artifact / "stream.npy", np.concatenate([images] * 4))
    found = answer(artifact, "run", artifact / "stream.npy", "--watch", "3", "--max-disagreement", "0.6")
    assert len(found["results"]) == 1200 and all(r["stages"] == 3 for r in found["results"][2::3])
    assert all(r["stages"] == r["exit"] + 1 for r in found["results"][::3])
    assert [e["name"] for e in found["watch"]] == ["exit0", "exit1"] and found["watch"][0]["tightened"] == 0
    strict = answer(artifact, "run", artifact / "stream.npy", "--watch", "1", "--max-disagreement", "0.001")["watch"]
    assert strict[0]["checked"] > 20 and strict[0]["disagreed"] > 0 and strict[0]["tightened"] > 0
    assert strict[0]["threshold"] > found["watch"][0]["threshold"]
    assert "what the watch did" in perse(artifact, "run", artifact / "stream.npy", "--watch", "2").stdout
    assert (artifact / "heads.pack").read_bytes() == heads


def test_a_mean_cost(artifact: Path) -> None:
    """Thresholds that keep it; one that the first exit alone exceeds is named, and as little as there is taken."""
    words = "calibrate", artifact / "user_x.npy", "--max-drop", 0  # strange images: the first exit contradicts the last
    free = answer(artifact, *words)["after"]
    bound = free["cost"] - 0.2
    held = answer(artifact, *words, "--max-cost", bound)["after"]
    assert held["cost"] <= bound + 1e-6 and held["accuracy"] <= free["accuracy"]
    told = perse(artifact, *words, "--max-cost", 0.001).stdout
    assert "a mean cost of 0.1% cannot be had: the first exit alone costs more" in told
    assert "cannot be had" not in perse(artifact, *words, "--max-cost", 0.999).stdout


def test_exits(artifact: Path) -> None:
    found = answer(artifact, "exits", "--runs", "3")
    assert [e["enabled"] for e in found["exits"]] == [True] * 3 and found["worst_ms"] > found["full_ms"] > 0
    assert "exit0    off" in perse(artifact, "exits", "--disable", "exit0").stdout
    assert [e["enabled"] for e in answer(artifact, "info")["exits"]] == [False, True, True]
    assert answer(artifact, "exits", "--enable", "exit0")["exits"][0]["enabled"]
    assert answer(artifact, "calibrate", artifact / "generic_x.npy", "--max-drop", "0")["generation"] == 1
    answer(artifact, "exits", artifact / "generic_x.npy")
    shares = [e["share"] for e in answer(artifact, "evaluate", artifact / "generic_x.npy")["exits"]]
    enabled = [e["enabled"] for e in answer(artifact, "info")["exits"]]
    assert all(share > 0 for share, on in zip(shares[:2], enabled[:2], strict=True) if on)
    assert "no such exit: exit9: `perse exits` lists them" in error(artifact, "exits", "--disable", "exit9")
    assert "the final exit is always enabled" in error(artifact, "exits", "--disable", "final")


def test_poisoned_labels_keep_the_heads(artifact: Path) -> None:
    np.save(artifact / "poison.npy", np.random.default_rng(0).integers(0, 4, 300))
    before = (artifact / "heads.pack").read_bytes()
    report = answer(artifact, "personalise", artifact / "generic_x.npy", "--labels", artifact / "poison.npy")
    assert not report["live"] and report["verdict"].startswith("kept the old heads")
    assert (artifact / "heads.pack").read_bytes() == before


def test_killed_while_personalising(artifact: Path) -> None:
    words = [artifact / "perse", "personalise", artifact / "user_x.npy", "--labels", artifact / "user_y.npy"]
    before = (artifact / "heads.pack").read_bytes()
    process = subprocess.Popen([*map(str, words), "--epochs", "100000"], stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (artifact / "heads.pack").read_bytes() == before
    assert answer(artifact, "info")["generation"] == 0


def header(text: str, version: bytes = b"\1\0", data: bytes = b"") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + data


SHAPE = "'fortran_order': False, 'shape': (300, 8, 8, 3), }"
BAD_NPY = {
    "not a .npy file": b"GIF89a, or so it says",
    "not a .npy file ": b"\x93N",
    "empty file": b"",
    "truncated .npy file": header("{'descr': '|u1', " + SHAPE, data=b"123"),
    "truncated .npy file ": b"\x93NUMPY\1\0\xff",
    "truncated .npy file  ": b"\x93NUMPY\1\0\xff\0abc",
    "damaged .npy header": header("{'shape'"),
    "damaged .npy header ": header("{'descr': '|u1', " + SHAPE.replace("300", "-1")),
    "damaged .npy header  ": header("{'descr': '|u1', " + SHAPE.replace("300", "9" * 30)),
    "damaged .npy header   ": header("{'descr': '|u1', 'shape': (1,)}"),
    "damaged .npy header    ": b"\x93NUMPY\1\0\xff\xff" + bytes(70000),
    "version of .npy": header("", b"\3\0", bytes(9)),
    "Fortran order": header("{'descr': '|u1', " + SHAPE.replace("False", "True")),
    "data type not supported": header("{'descr': '<f8', " + SHAPE),
    "big-endian": header("{'descr': '>f4', " + SHAPE),
    "images are not uint8": header("{'descr': '<i4', 'fortran_order': False, 'shape': (1,)}", data=bytes(4)),
    "no data in it": header("{'descr': '|u1', " + SHAPE.replace("300", "0")),
    "too many dimensions": header("{'descr': '|u1', " + SHAPE.replace("300", "1, 1")),
    "more data": header("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", data=b"12"),
    "shape does not fit": header("{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", data=b"12"),
}


@pytest.mark.parametrize("what", BAD_NPY)
def test_bad_npy(artifact: Path, what: str) -> None:
    (artifact / "bad.npy").write_bytes(BAD_NPY[what])
    assert f"perse: {what.strip()}" in error(artifact, "personalise", artifact / "bad.npy")


def test_bad_labels_and_images(artifact: Path) -> None:
    images, right = artifact / "user_x.npy", artifact / "user_y.npy"
    labels = np.load(right)

    def with_labels(values: np.ndarray[Any, Any]) -> str:
        np.save(artifact / "labels.npy", values)
        return error(artifact, "personalise", images, "--labels", artifact / "labels.npy")

    assert "label out of range" in with_labels(labels + 4)
    assert "label out of range" in with_labels(np.full(300, -2, np.int32))
    assert "all samples are of one class" in with_labels(np.zeros(300, np.int64))
    assert "labels are not whole numbers" in with_labels(labels.astype(np.float32))
    assert "not one label per image" in with_labels(labels[:-1])
    np.save(artifact / "few.npy", np.load(images)[:10])
    assert "too few samples" in error(artifact, "personalise", artifact / "few.npy")
    nan = np.full((8, 8, 3), np.nan, np.float32)
    np.save(artifact / "nan.npy", nan)
    assert "input has NaN" in error(artifact, "run", artifact / "nan.npy")
    np.save(artifact / "int.npy", np.zeros((8, 8, 3), np.int32))
    assert "image is not uint8" in error(artifact, "run", artifact / "int.npy")
    assert "No such file" in error(artifact, "run", artifact / "none.npy")
    assert "not a file" in error(artifact, "run", artifact)
    assert "training diverged" in error(artifact, "personalise", images, "--labels", right, "--learning-rate", "1e30")


@pytest.mark.parametrize("name", ["backbone.bin", "heads.pack"])
def test_damaged_files(artifact: Path, name: str) -> None:
    whole = (artifact / name).read_bytes()
    for damaged, text in (
        (whole[:-1], "file length is wrong"),
        (whole[:10], "file length is wrong"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "file is damaged"),
        (b"x" + whole[1:], "not a perse file"),
    ):
        (artifact / name).write_bytes(damaged)
        message = error(artifact, "info")
        assert text in message and str(artifact / name) in message
    if name == "heads.pack":
        assert "no previous heads" in error(artifact, "rollback")
        assert answer(artifact, "reset") == {"generation": 0}
        assert answer(artifact, "info")["generation"] == 0


def test_full_disk(artifact: Path) -> None:
    before = (artifact / "heads.pack").read_bytes()
    script = "import resource,signal,os,sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); os.execv(sys.argv[1], sys.argv[1:])"
    words = [artifact / "perse", "personalise", artifact / "user_x.npy", "--labels", artifact / "user_y.npy"]
    command = [sys.executable, "-c", script, *map(str, words)]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 1 and "perse: disk full" in result.stderr
    assert (artifact / "heads.pack").read_bytes() == before
    assert sorted(p.name for p in artifact.glob("heads.pack*")) == ["heads.pack"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [artifact / "perse", "info"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    assert result.returncode == 1 and "cannot write" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["dance"], "unknown command: dance"),
        (["dance", "--help"], "unknown command: dance"),
        (["info", "--what"], "unknown option: --what"),
        (["info", "--threads"], "option needs a value: --threads"),
        (["info", "--artifact"], "option needs a value: --artifact"),
        (["info", "--threads", "two"], "not a number: two"),
        (["info", "--threads", "65"], "value out of range: --threads"),
        (["personalise", "x", "--budget"], "option needs a value: --budget"),
        (["personalise", "x", "--budget", "2 apples"], "not a size such as 500kB or 2MB: 2 apples"),
        (["personalise", "x", "--budget", "-1"], "not a size"),
        (["exits", "--disable"], "option needs a value: --disable"),
        (["info", "--pack"], "option needs a value: --pack"),
        (["personalise", "x", "--cache-file"], "option needs a value: --cache-file"),
        (["run"], "needs a .npy file: run"),
        (["run", "a", "b"], "one file is enough: b"),
        (["personalise", "x", "--folds", "1"], "--folds"),
        (["personalise", "x", "--neighbours", "1.5"], "value out of range: --neighbours"),
        (["personalise", "x", "--against"], "option needs a value: --against"),
        (["personalise", "x", "--against", "mars"], "not final or factory: mars"),
        (["personalise", "x", "--max-cost", "1.5"], "value out of range: --max-cost"),
        (["personalise", "x", "--new-class"], "option needs a value: --new-class"),
        (["personalise", "x", *["--new-class", "mug"] * 65], "too many new classes: mug"),
    ],
)
def test_wrong_usage(artifact: Path, arguments: list[str], text: str) -> None:
    assert text in error(artifact, *arguments, code=2)


def test_artifact_elsewhere(artifact: Path, tmp_path: Path) -> None:
    shutil.copy(artifact / "perse", tmp_path / "perse")
    assert "no such file: backbone.bin" in error(tmp_path, "info").replace(f"{tmp_path}/", "")
    assert answer(tmp_path, "info", "--artifact", artifact)["name"] == "mock"
    assert "no such file: /nowhere" in error(tmp_path, "info", "--artifact", "/nowhere")
