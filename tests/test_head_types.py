"""Heads by type and budget: what is chosen, what it costs, and a bottleneck all the way to a person's heads."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import perse_compile as pc
from benchmarks.train_steps import compile_driver, make_steps, run_driver, train_in_torch
from perse_compile import manifest, targets
from perse_compile.building.build import Built, build
from perse_compile.dump import dump
from perse_compile.errors import PassError, VerifyError
from perse_compile.exit_nodes import feature_nodes, head_node
from perse_compile.macs import head_bytes, head_macs, node_macs, pack_bytes
from perse_compile.ops import OPS
from perse_compile.passes import analysis_pipeline, default_pipeline
from perse_compile.passes.head_types import AUTO, HeadWish, head_facts, make_exit, make_exits, parse_wish, words
from perse_compile.personalise.data import Images
from perse_compile.personalise.train_exits import train_exits, worth
from perse_compile.pipeline import run
from perse_compile.placement.budget import Budget
from perse_compile.placement.candidates import with_linear_heads
from perse_compile.placement.place import Wishes, place
from perse_compile.program import CutPoint, Exit, Program
from perse_compile.report.layers import layers
from perse_compile.study.finetune import trainable
from perse_compile.tuning.tasks import tasks_of
from perse_compile.verify import verify
from tests.artifacts import ARM, CLASSES, NATIVE, device_for, pictures, through_another_camera, tiny_network
from tests.test_api import same_answers

TAPS = ("relu", "relu_2")
NARROW = HeadWish("bottleneck", 20_000)
WIDE = CutPoint("layer3", 1, (1024, 14, 14))
THIN = CutPoint("stem", 1, (16, 32, 32))
SMALL = CutPoint("last", 1, (512, 1, 7))
Call = Callable[..., tuple[str, str]]


def images(count: int = 300, seed: int = 2) -> Images:
    return Images("pictures", *pictures(count, seed), list(CLASSES), [""] * count)


@pytest.fixture(scope="module")
def network() -> Program:
    """Traced; no pass has run."""
    return tiny_network()


@pytest.fixture(scope="module")
def fresh(network: Program) -> Program:
    return run(copy.deepcopy(network), default_pipeline(TAPS, head=NARROW))


@pytest.fixture(scope="module")
def trained(fresh: Program, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Trained, saved and loaded."""
    program, path = copy.deepcopy(fresh), tmp_path_factory.mktemp("program") / "tiny.perse"
    train_exits(program, images(), epochs=60)
    program.save(path)
    return Program.load(path)


@pytest.fixture(scope="module")
def built(trained: Program, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    folder = tmp_path_factory.mktemp("built")
    return cache(lambda target: build(trained, targets.load(target), folder / f"tiny-{target}"))


# --- what is chosen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "wish", "found"),
    [
        (THIN, AUTO, (4, 256, 0)),
        (WIDE, AUTO, (1, 1024, 0)),
        (SMALL, AUTO, (1, 512, 0)),
        (THIN, HeadWish("pooled"), (1, 16, 0)),
        (WIDE, HeadWish("multiscale"), (2, 4096, 0)),
        (THIN, HeadWish("multiscale", 5_000), (2, 64, 0)),
        (THIN, HeadWish("auto", 13_000), (4, 256, 0)),
        (THIN, HeadWish("auto", 12_000), (2, 64, 0)),
        (THIN, HeadWish("auto", 2_000), (1, 16, 0)),
        (WIDE, HeadWish("auto", 48_000), (1, 8, 1024)),
        (WIDE, HeadWish("bottleneck"), (1, 128, 1024)),
        (THIN, HeadWish("bottleneck", 40_000), (4, 32, 256)),
        (THIN, HeadWish("bottleneck", 20_000), (4, 16, 256)),
        (THIN, HeadWish("bottleneck", 15_000), (2, 32, 64)),
        (THIN, HeadWish("bottleneck", 3_000), (2, 8, 64)),
    ],
)
def test_the_richest_that_fits(cut: CutPoint, wish: HeadWish, found: tuple[int, int, int]) -> None:
    exit = make_exit("exit0", cut, 10, wish)
    assert exit is not None and (exit.grid, exit.features, exit.projected) == found
    assert wish.budget is None or head_bytes(exit, 10) <= wish.budget
    assert (exit.tap, exit.macs, exit.enabled) == (cut.node, 1, False)


def test_without_a_budget_auto_is_the_finest_grid_with_at_most_1024_features() -> None:
    for channels, height, width in itertools.product(
        (1, 16, 58, 64, 65, 232, 256, 257, 2048), (1, 2, 3, 7), (1, 3, 56)
    ):
        exit = make_exit("exit0", CutPoint("x", 1, (channels, height, width)), 10, AUTO)
        grids = [g for g in (4, 2) if channels * g * g <= 1024 and g <= min(height, width)]
        grid = max([1, *grids])
        assert exit == Exit("exit0", "x", grid, channels * grid * grid, 1)


def test_a_budget_never_makes_a_head_larger() -> None:
    for kind in ("auto", "bottleneck"):
        free = make_exit("exit0", THIN, 100, HeadWish(kind))
        assert free is not None
        sizes = [make_exit("exit0", THIN, 100, HeadWish(kind, budget)) for budget in range(2_000, 200_000, 3_000)]
        most = [head_bytes(exit, 100) for exit in sizes if exit is not None]
        assert most == sorted(most) and most[-1] == head_bytes(free, 100)


def test_the_least_budget_is_told_and_would_do() -> None:
    with pytest.raises(PassError, match=r"no head at layer3 reads 900 bytes or less; (\d+)B would do") as caught:
        make_exits([THIN, WIDE], 10, HeadWish("auto", 900))
    least = int(str(caught.value).split("; ")[1].split("B")[0])
    assert [exit.name for exit in make_exits([THIN, WIDE], 10, HeadWish("auto", least))] == ["exit0", "exit1"]
    with pytest.raises(PassError, match="would do"):
        make_exits([THIN, WIDE], 10, HeadWish("auto", least - 1))
    with pytest.raises(PassError, match="no pooled head at layer3"):
        make_exits([THIN, WIDE], 10, HeadWish("pooled", 900))


@pytest.mark.parametrize(
    ("cut", "kind", "message"),
    [
        (
            SMALL,
            "multiscale",
            "--head multiscale: last, 512x1x7, is too small for it; use --head auto, or other --exits",
        ),
        (CutPoint("few", 1, (8, 1, 1)), "bottleneck", "--head bottleneck: few, 8x1x1, is too small for it"),
    ],
)
def test_taps_without_such_a_head(cut: CutPoint, kind: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        make_exits([THIN, cut], 10, HeadWish(kind))
    assert make_exit("exit0", cut, 10, HeadWish(kind)) is None


@pytest.mark.parametrize(
    ("text", "bytes"), [("400kB", 400_000), ("1.5 MB", 1_500_000), ("900", 900), ("64KB", 64_000), ("12B", 12)]
)
def test_sizes(text: str, bytes: int) -> None:
    assert parse_wish("auto", text) == HeadWish("auto", bytes)
    assert parse_wish("pooled", None) == HeadWish("pooled")


@pytest.mark.parametrize("text", ["", "kB", "-4kB", "4 KiB", "0", "0.0MB", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(PassError, match="is not a size; give the like of 400kB or 1MB"):
        parse_wish("auto", text)


def test_words_and_bytes() -> None:
    exit = Exit("exit0", "x", 2, 32, 1, projected=256)
    assert words(exit) == "bottleneck 32 of 2x2" and words(replace(exit, grid=1)) == "bottleneck 32"
    assert [words(Exit(name, "x", grid, 8, 1)) for name, grid in (("exit0", 1), ("exit0", 4), ("final", 1))] == [
        "pooled", "multiscale 4x4", "own",
    ]  # fmt: skip
    assert pack_bytes(exit, 10) == 4 * (32 + 32 + 32 * 10 + 10)
    assert head_bytes(exit, 10) == pack_bytes(exit, 10) + 4 * (256 * 32 + 32)
    assert head_facts(exit, 10)["cache_bytes"] == 64


# --- in the program ---------------------------------------------------------------------------------------


def test_without_a_wish_nothing_changes(network: Program) -> None:
    """Names, sizes and bytes are those of the default pipeline before there were types."""
    program, asked = (
        run(copy.deepcopy(network), default_pipeline(TAPS, head=head)) for head in (AUTO, HeadWish("multiscale"))
    )
    assert [(e.grid, e.features) for e in program.exits] == [(4, 256), (4, 512), (1, 48)]
    assert dump(program) == dump(asked) and "means" not in dump(program)
    assert manifest.heads_id(program) == manifest.heads_id(asked)


def test_a_bottleneck_in_the_graph(fresh: Program) -> None:
    exit = fresh.exits[0]
    assert [node.name for node in feature_nodes(fresh, exit)] == ["exit0_features", "exit0_projection", "exit0_narrow"]
    assert "exit0: tap relu, grid 4, 16 features of 256 means" in dump(fresh)
    assert [(exit.grid, exit.features, exit.projected) for exit in fresh.exits[1:]] == [(2, 32, 128), (1, 48, 0)]
    parts = [*feature_nodes(fresh, exit), head_node(fresh, exit)]
    assert head_macs(fresh, "exit0") == sum(map(node_macs, parts)) == 16 * 16 * 16 + 256 * 16 + 16 * 5
    assert worth(fresh)[0].asked == 256 * 16 + 16 * 5
    assert all("exit0" not in name for stage in fresh.stages for name in stage.nodes)
    assert "exit0_projection" not in [node for layer in layers(fresh) for node in layer["nodes"]]


def test_its_start_is_random_of_the_same_seed(network: Program, fresh: Program) -> None:
    again = run(copy.deepcopy(network), default_pipeline(TAPS, head=NARROW))
    weight = fresh.tensor("exit0_projection.weight")
    assert torch.equal(weight, again.tensor("exit0_projection.weight"))
    assert (
        float(weight.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.05)
        and not fresh.tensor("exit0_projection.bias").any()
    )


def test_it_survives_saving(trained: Program, tmp_path: Path) -> None:
    trained.save(tmp_path / "a.perse")
    loaded = Program.load(tmp_path / "a.perse")
    verify(loaded)
    assert dump(loaded) == dump(trained) and loaded.exits == trained.exits
    assert loaded.exits[0].head == "bottleneck" and loaded.exits[0].projected == 256


def test_the_module_computes_what_the_graph_does(trained: Program) -> None:
    program = copy.deepcopy(trained)
    pixels = torch.from_numpy(pictures(12, 4)[0]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (program.input.mean, program.input.std))
    with torch.no_grad():
        logits = program.module((pixels.float() / 255 - mean) / std)
    for position, exit in enumerate(program.exits):
        for each in program.exits:
            each.enabled, each.threshold = each is exit or each.name == "final", 0.0
        expected = torch.softmax(logits[position] / exit.temperature, 1)
        torch.testing.assert_close(program.as_module()(pixels).probabilities, expected)


BREAKAGES: dict[str, Callable[[Program], Any]] = {
    r"must read relu\(linear\(pool_features\)\)": lambda p: setattr(p.node("exit0_narrow"), "target", OPS["tanh"]),
    r"exit0_projection\.weight must have shape": lambda p: setattr(p.exits[0], "projected", 9),
    "must end in a head that reads pool_features": lambda p: setattr(p.exits[0], "projected", 0),
}


@pytest.mark.parametrize("message", BREAKAGES)
def test_verify_finds(fresh: Program, message: str) -> None:
    broken = copy.deepcopy(fresh)
    BREAKAGES[message](broken)
    with pytest.raises(VerifyError, match=message):
        verify(broken)


# --- training ---------------------------------------------------------------------------------------------


def test_projection_and_head_learn_together(fresh: Program, trained: Program) -> None:
    report = trained.provenance["train_exits"]
    assert report["before"]["exit0"] < 0.5 and report["after"]["exit0"] > 0.9
    before, after = fresh.tensors(), trained.tensors()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"exit0", "exit0_projection", "exit1", "exit1_projection", "final"}
    assert manifest.heads_id(fresh) != manifest.heads_id(trained)


def test_training_again_gives_the_same(fresh: Program, trained: Program) -> None:
    program = copy.deepcopy(fresh)
    train_exits(program, images(), epochs=60)
    assert all(torch.equal(tensor, trained.tensor(name)) for name, tensor in program.tensors().items())


def test_stopping_leaves_the_projection_as_it_was(fresh: Program) -> None:
    program = copy.deepcopy(fresh)

    def stop(what: str, done: int, total: int) -> None:
        if what == "training exit1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_exits(program, images(), epochs=2, progress=stop)
    assert all(torch.equal(tensor, program.tensor(name)) for name, tensor in fresh.tensors().items())


def test_baselines_in_torch(trained: Program) -> None:
    """Without a cache only heads learn, not a projection; the whole network learns without any exit."""
    heads = dict(trainable(copy.deepcopy(trained), "no-cache").named_parameters())
    assert {name.split(".")[0] for name in heads} == {"exit0", "exit1", "final"}
    full = trainable(copy.deepcopy(trained), "full")
    assert not any("projection" in str(node.target) for node in full.graph.nodes)


def test_tuning_knows_the_projections(fresh: Program) -> None:
    found = [str(task.work) for task in tasks_of(copy.deepcopy(fresh), targets.load(NATIVE))]
    assert "product 1x256->16" in found and "head 1x16->5" in found


# --- in the artifact --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [NATIVE, *ARM[:1], *ARM[-1:]])
def test_compiled_exits_are_those_of_pytorch(built: Callable[[str], Built], target: str) -> None:
    device_for(target)
    found = built(target)
    assert found.selftest is not None and all(row["max_rel_diff"] < 1e-4 for row in found.selftest["exits"])
    assert [exit["head_words"] for exit in found.artifact.manifest["exits"]] == [
        "bottleneck 16 of 4x4", "bottleneck 32 of 2x2", "own",
    ]  # fmt: skip


def test_the_artifact_answers_and_personalises(
    trained: Program, built: Callable[[str], Built], tmp_path: Path, call: Call
) -> None:
    folder = Path(shutil.copytree(built(NATIVE).artifact.folder, tmp_path / "tiny-x86_64-linux"))
    pixels, _ = pictures(24, 3, noise=180)
    assert len(same_answers(trained, folder, pixels, None)) >= 2
    exits = pc.open_artifact(folder).manifest["exits"]
    assert (folder / manifest.PACK).stat().st_size == 64 + 24 + sum(32 + exit["pack_bytes"] for exit in exits)
    assert exits[0]["head_macs"] == head_macs(trained, "exit0")
    mine, known = pictures(120, 20)
    np.savez(tmp_path / "mine.npz", images=through_another_camera(mine), labels=known, class_names=list(CLASSES))
    backbone = (folder / manifest.BACKBONE).read_bytes()
    assert pc.personalise(folder, tmp_path / "mine.npz")["live"]
    assert (folder / manifest.BACKBONE).read_bytes() == backbone
    same_answers(trained, folder, through_another_camera(pixels), folder / "heads.pack")
    assert "bottleneck 16 of 4x4" in call("show", folder)[0]
    call("show", folder, "--html")
    assert "bottleneck 16 of 4x4" in (folder / "report.html").read_text()


@pytest.mark.parametrize("target", [NATIVE, *ARM[:1]])
def test_training_steps_are_those_of_pytorch(built: Callable[[str], Built], target: str, tmp_path: Path) -> None:
    device = device_for(target)
    folder = Path(shutil.copytree(built(target).artifact.folder, tmp_path / "tiny"))
    compile_driver(folder, targets.load(target), tmp_path / "train_steps")
    before = manifest.read_pack(folder / manifest.PACK).exits[0]
    steps = make_steps(16, len(CLASSES), "mixed", 20)
    got = run_driver([*device.prefix, str(tmp_path / "train_steps")], folder, 0, steps, tmp_path / "steps.bin")
    expected = train_in_torch(before, steps)
    np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-4)
    assert np.abs(got.weight - expected.weight).max() <= 1e-4 * np.abs(expected.weight).max()


# --- the command, and the search over places --------------------------------------------------------------


def test_the_command(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("insert-exits", "tests.models:plain", "--exits", "relu")
    assert "bottleneck 32 of 4x4" in call(*words, "--head", "bottleneck", "--head-budget", "20kB")[0]
    assert Program.load(tmp_path / "plain.perse").exits[0].projected
    assert "multiscale 2x2" in call(*words, "--head-budget", "1kB")[0]
    for wrong, message in (
        (("--head", "deep"), "--head 'deep' is not auto, pooled, multiscale or bottleneck"),
        (("--head-budget", "much"), "--head-budget 'much' is not a size"),
        (("--head-budget", "9B"), "no head at relu reads 9 bytes or less; "),
    ):
        _, error = call(*words, *wrong, code=1)
        assert message in error and error.count("\n") == 1


def test_places_with_linear_heads_only(network: Program) -> None:
    cut = run(copy.deepcopy(network), analysis_pipeline())
    photos = images(120, 5)

    def quiet(what: str, done: int, total: int) -> None:
        pass

    def search(head: HeadWish) -> Program:
        program = copy.deepcopy(cut)
        place(program, photos, Wishes(Budget(max_drop=0.05), head=head), tell=quiet)
        verify(program)
        return program

    assert {exit.head for exit in search(HeadWish("pooled")).exits[:-1]} == {"pooled"}
    budget = 3_000
    early = search(HeadWish("auto", budget)).exits[:-1]
    assert early and all(head_bytes(exit, 5) <= budget and not exit.projected for exit in early)
    with pytest.raises(PassError, match="--place searches with linear heads"):
        search(HeadWish("bottleneck"))
    with pytest.raises(PassError, match="no linear head of 300 bytes fits at any of"):
        search(HeadWish("auto", 300))
    with pytest.raises(PassError, match="--head multiscale: all 1 candidates are too small for it; use --head auto"):
        with_linear_heads([CutPoint("deep", 100, (8, 1, 1))], 5, HeadWish("multiscale"))
