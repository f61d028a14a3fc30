"""Classes that the network never had: outputs that cannot win until a person teaches one, and how."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import perse_compile as pc
from perse_compile import driver, manifest, targets
from perse_compile.artifact import open_artifact
from perse_compile.building.build import build
from perse_compile.devices import LocalDevice
from perse_compile.errors import ArtifactError, DataError, DeviceError, VerifyError
from perse_compile.passes import analysis_pipeline, default_pipeline
from perse_compile.personalise.data import Images
from perse_compile.personalise.session import Session
from perse_compile.personalise.train_exits import train_exits
from perse_compile.pipeline import run
from perse_compile.placement.budget import Budget
from perse_compile.placement.place import Wishes, place
from perse_compile.program import SPARE_LOGIT, Program
from perse_compile.same_function import SameFunction
from perse_compile.verify import verify
from tests import models
from tests.artifacts import CLASSES, SIZE, Labels, Pixels, checksums, device_for, pictures, tiny_network
from tests.helpers import prepared, traced
from tests.test_manifest import a_pack, same

ROOM = 2
MUG = len(CLASSES)
Run = Callable[..., tuple[str, str]]


def mugs(count: int, seed: int) -> Pixels:
    """Pictures of something that the small network has never seen: rings."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    found = np.full((count, SIZE, SIZE, 3), 110.0)
    for picture in found:
        off = np.hypot(x - SIZE / 2 - rng.normal(0, 2), y - SIZE / 2 - rng.normal(0, 2))
        picture += 90 * ((off // 3 % 2) - 0.5)[:, :, None]
    return np.clip(found + rng.normal(0, 40, found.shape), 0, 255).astype(np.uint8)


def with_mugs(known: int, new: int, seed: int) -> tuple[Pixels, Labels]:
    pixels, labels = pictures(known, seed)
    return np.concatenate([pixels, mugs(new, seed)]), np.append(labels, np.full(new, MUG))


def as_folder(folder: Path, known: int, new: int, seed: int, name: str = "mug") -> Path:
    pixels, labels = with_mugs(known, new, seed)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        within = folder / (name if label == MUG else CLASSES[label])
        within.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(within / f"{index}.png")
    return folder


# --- outputs that cannot win ------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [models.Plain, models.Branches])
def test_spare_outputs_change_nothing_else(network: type[nn.Module]) -> None:
    """Whether the network ends in a linear layer or not."""
    programs = []
    for spare in (0, 3):
        torch.manual_seed(0)
        programs.append(run(traced(network()), default_pipeline(1, spare=spare), [SameFunction()]))
    x = torch.randn(2, 3, *(getattr(programs[0].input, side) for side in ("height", "width")))
    with torch.no_grad():
        plain, wide = (program.module(x) for program in programs)
    known = len(programs[0].classes)
    for narrow, wider in zip(plain, wide, strict=True):
        assert wider.shape == (2, known + 3) and bool((wider[:, known:] == SPARE_LOGIT).all())
        torch.testing.assert_close(wider[:, :known], narrow, rtol=1e-6, atol=1e-6)
        for temperature in (0.05, 1, 20):
            logs = torch.log_softmax(wider / temperature, 1)
            assert bool(logs.isfinite().all()) and float(logs[:, known:].exp().max()) == 0
    assert wide[-1].half().isfinite().all()


def test_spare_outputs_are_saved_and_checked(tmp_path: Path) -> None:
    program = prepared(models.Plain(), default_pipeline(1, spare=2))
    program.save(tmp_path / "p.perse")
    found = Program.load(tmp_path / "p.perse")
    assert (found.spare, found.outputs) == (2, len(program.classes) + 2)
    verify(found)
    weight = found.tensor("exit0.weight").clone()
    weight[0, -1] = 1e-9
    found.set_tensor("exit0.weight", weight)
    with pytest.raises(VerifyError, match="spare outputs of exit exit0 must have weight 0 and bias -30000"):
        verify(found)


def test_training_leaves_them(roomy: Program) -> None:
    for exit in roomy.exits:
        weight, bias = roomy.tensor(f"{exit.name}.weight"), roomy.tensor(f"{exit.name}.bias")
        assert weight.shape[1] == len(CLASSES) + ROOM and not weight[:, MUG:].any()
        assert bias[MUG:].tolist() == [SPARE_LOGIT] * ROOM and bool(weight[:, :MUG].any())
        assert 0.05 <= exit.temperature < 20


def test_placed_exits_have_them_too() -> None:
    program = run(tiny_network(), analysis_pipeline())
    images = Images("pictures", *pictures(200, 5, noise=180), list(CLASSES), [""] * 200)
    place(program, images, Wishes(Budget(), 1, ("relu_2", "relu_3")), tell=lambda *_: None, spare=1)
    verify(program)
    assert program.spare == 1 and program.exits[-1].temperature > 0
    assert all(program.tensor(f"{exit.name}.bias")[-1] == SPARE_LOGIT for exit in program.exits)


def test_a_pack_with_names(tmp_path: Path) -> None:
    exits = [replace(e, weight=np.pad(e.weight, ((0, 0), (0, 2))), bias=np.pad(e.bias, (0, 2))) for e in a_pack().exits]
    pack, path = replace(a_pack(), exits=exits, spare=2, new_classes=("ma tasse d'été",)), tmp_path / "heads.pack"
    data = manifest.encode_pack(pack)
    path.write_bytes(data)
    found = manifest.read_pack(path)
    assert same(found, pack) and (found.spare, found.new_classes) == (2, ("ma tasse d'été",))
    broken = bytearray(data)
    broken[data.index("été".encode()) + 1] = ord("x")
    broken[12:16] = manifest.checksum(broken).to_bytes(4, "little")
    path.write_bytes(broken)
    with pytest.raises(ArtifactError, match="is damaged"):
        manifest.read_pack(path)


# --- a person teaches one ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The small network with room for two classes more; not to be changed."""
    program = run(tiny_network(), default_pipeline(("relu", "relu_2"), spare=ROOM))
    train_exits(program, Images("pictures", *pictures(300, seed=2), list(CLASSES), [""] * 300), epochs=10)
    return program


@pytest.fixture(scope="module")
def build_roomy(roomy: Program, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("roomy")
    return lambda target: build(roomy, targets.load(target), folder / target, force=True).artifact.folder


@pytest.fixture(scope="module")
def native(build_roomy: Callable[[str], Path]) -> Path:
    return build_roomy("x86_64-linux")


@pytest.fixture
def room(native: Path, tmp_path: Path) -> Path:
    """An own copy of its artifact."""
    return Path(shutil.copytree(native, tmp_path / "roomy-x86_64-linux"))


def recall(folder: Path, label: int, pixels: Pixels, **where: Any) -> float:
    images = Images("test", pixels, np.full(len(pixels), label), [], [])
    return float(Session(open_artifact(folder), LocalDevice(), **where).evaluate(images)["accuracy"])


def test_a_mug(room: Path, roomy: Program, tmp_path: Path, call: Run) -> None:
    assert call("show", room)[0].count("5 classes (room for 2 more)") == 1
    before = recall(room, 3, pictures(100, 8)[0][pictures(100, 8)[1] == 3])
    told = driver.personalise(room, as_folder(tmp_path / "mine", 100, 12, 7), new_classes=["mug"])
    assert told["live"] and told["recognised"][MUG] > 0.7 and len(told["recognised"]) == len(told["prior"]) == MUG + 1
    assert recall(room, MUG, mugs(60, 9)) > 0.8
    assert recall(room, 3, pictures(100, 8)[0][pictures(100, 8)[1] == 3]) > before - 0.1
    pack = manifest.read_pack(room / "heads.pack")
    assert pack.new_classes == ("mug",) and all(exit.bias[MUG + 1] == SPARE_LOGIT for exit in pack.exits)

    # its name is known from now on
    info = open_artifact(room).call(LocalDevice(), ["info"])
    assert info["class_names"] == [*CLASSES, "mug"] and (info["classes"], info["spare_classes"]) == (MUG + 1, 1)
    Image.fromarray(mugs(1, 10)[0]).save(tmp_path / "one.png")
    [answer] = driver.run(room, [tmp_path / "one.png"], probabilities=True)
    assert answer["name"] == "mug" and len(answer["probabilities"]) == MUG + 1
    assert driver.evaluate(room, as_folder(tmp_path / "test", 50, 20, 11))["samples"] == 70
    assert "5 classes and mug (room for 1 more)" in call("show", room)[0]
    assert "and mug (room for 1 more)" in (room / "report.html").read_text()

    # in PyTorch too
    module = roomy.as_module().use_pack(room / "heads.pack")
    assert module.classes == [*CLASSES, "mug"]
    pixels, _ = with_mugs(6, 6, 12)
    said = module(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    for image, label, probabilities in zip(pixels, said.labels, said.probabilities, strict=True):
        answer = pc.run(room, image)
        assert answer.label == int(label)
        np.testing.assert_allclose(answer.probabilities, probabilities.numpy(), atol=1e-4)

    # and a later personalisation takes it by its name
    assert driver.personalise(room, as_folder(tmp_path / "more", 60, 20, 13))["samples"]["judged"] == 80
    driver.restore_heads(room, "reset")
    with pytest.raises(DataError, match="no class is named 'mug'"):
        driver.evaluate(room, tmp_path / "test")


def test_name_and_heads_go_together(room: Path, tmp_path: Path) -> None:
    factory = (room / "heads.pack").read_bytes()
    mine = as_folder(tmp_path / "mine", 100, 12, 7)
    assert driver.personalise(room, mine, new_classes=["mug"])["live"]
    driver.restore_heads(room, "rollback")
    assert (room / "heads.pack").read_bytes() == factory
    driver.restore_heads(room, "rollback")
    assert manifest.read_pack(room / "heads.pack").new_classes == ("mug",)
    mine.joinpath("mug").rename(mine / "cup")
    assert driver.personalise(room, mine, pack="kitchen", new_classes=["cup"])["live"]  # a pack has its own
    assert [pack["new_classes"] for pack in driver.packs(room)] == [["mug"], ["cup"]]
    assert recall(room, MUG, mugs(40, 9), pack="kitchen") > 0.8
    assert driver.evaluate(room, mine, pack="kitchen")["samples"] == 112
    with pytest.raises(DataError, match=r"no class is named 'cup'; known: red dots, .*, mug"):
        driver.evaluate(room, mine)


def test_images_without_it_do_not_make_it_forgotten(room: Path, tmp_path: Path) -> None:
    """Nor what was learnt of classes that they do not show; without a cache."""
    assert driver.personalise(room, as_folder(tmp_path / "mine", 100, 12, 7), new_classes=["mug"])["live"]
    before = recall(room, MUG, mugs(60, 9))
    later = as_folder(tmp_path / "later", 100, 0, 14)
    shutil.rmtree(later / "stripes")
    driver.personalise(room, later, options={"seed": "5", "max-drop": "0.2"})
    assert recall(room, MUG, mugs(60, 9)) > before - 0.15


def test_the_cache_remembers_a_class(room: Path, tmp_path: Path) -> None:
    driver.personalise(room, as_folder(tmp_path / "mine", 100, 12, 7), new_classes=["mug"], options={"cache": ""})
    later = driver.personalise(room, as_folder(tmp_path / "later", 100, 0, 14), options={"cache": "", "seed": "5"})
    assert later["cache"]["samples"] == 212 and later["recognised"][MUG] > 0.7
    assert recall(room, MUG, mugs(60, 9)) > 0.8


def test_too_few_may_come_to_more(room: Path, tmp_path: Path) -> None:
    """Images wait in the cache until there are enough."""
    with pytest.raises(DeviceError, match="too few samples of a new class: mug: label at least 5"):
        driver.personalise(room, as_folder(tmp_path / "mine", 60, 4, 7), new_classes=["mug"], options={"cache": ""})
    told = driver.personalise(room, as_folder(tmp_path / "more", 60, 4, 15), new_classes=["mug"], options={"cache": ""})
    assert told["cache"]["samples"] == 128 and "mug" not in driver.packs(room)[0]["new_classes"][told["live"] :]


@pytest.mark.arm
def test_a_phone_learns_a_class(build_roomy: Callable[[str], Path], room: Path, tmp_path: Path) -> None:
    phone = Path(shutil.copytree(build_roomy("arm64-linux"), tmp_path / "phone"))
    pixels, labels = with_mugs(80, 12, 7)
    mine = Images("mine", pixels, labels, [*CLASSES, "mug"], [])
    packs = []
    for folder, device in ((room, LocalDevice()), (phone, device_for("arm64-linux"))):
        told = Session(open_artifact(folder), device).personalise(mine, {"epochs": "10"}, new_classes=["mug"])
        packs.append(manifest.read_pack(folder / "heads.pack"))
        assert told["live"] and packs[-1].new_classes == ("mug",)
    for left, right in zip(packs[0].exits, packs[1].exits, strict=True):
        np.testing.assert_allclose(right.weight, left.weight, rtol=0, atol=1e-3 * np.abs(left.weight).max())


# --- what is refused --------------------------------------------------------------------------------------


def refused(room: Path, data: Path, names: list[str], says: str) -> None:
    files = checksums(room)
    with pytest.raises((DataError, DeviceError), match=says):
        driver.personalise(room, data, new_classes=names)
    assert checksums(room) == files


def test_names_that_cannot_be(room: Path, tmp_path: Path, native: Path) -> None:
    mine = as_folder(tmp_path / "mine", 40, 6, 7)
    refused(
        room, mine, ["mug", "cup", "jar"], "no output is left for a new class: jar: .* `insert-exits --spare-classes N`"
    )
    refused(room, mine, ["mug", "a\tb"], "not a name for a class: .*no control characters")
    refused(room, mine, ["mug", "x" * 64], "not a name for a class: .*: use 1 to 63 bytes")
    refused(room, mine, ["mug", "green"], "there is a class 'green' already; leave --new-class green out")
    refused(room, mine, ["mug", "mug"], "several classes are named 'mug'|a class has that name already: mug")
    refused(room, mine, ["mug", "cup"], "too few samples of a new class: cup: label at least 5")
    refused(room, mine, ["cup"], "no class is named 'mug'")


def test_an_artifact_without_room(artifact: Path, tmp_path: Path) -> None:
    refused(artifact, as_folder(tmp_path / "mine", 40, 6, 7), ["mug"], "no output is left for a new class: mug")


def test_heads_of_an_artifact_with_other_room(roomy: Program, room: Path) -> None:
    pack = manifest.read_pack(room / "heads.pack")
    (room / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, spare=1)))
    with pytest.raises(ArtifactError, match="belongs to another artifact"):
        open_artifact(room)
    with pytest.raises(ArtifactError, match="belongs to another network"):
        roomy.as_module().use_pack(room / "heads.pack")


# --- commands ---------------------------------------------------------------------------------------------


def test_the_commands(room: Path, tmp_path: Path, call: Run) -> None:
    out, _ = call("personalise", room, "--data", as_folder(tmp_path / "mine", 100, 12, 7), "--new-class", "mug")
    assert "of its labelled images recognised" in out and "new class mug: " in out
    shown = call(
        "insert-exits", "squeezenet1_1", "--weights", "none", "--spare-classes", "3", "-o", tmp_path / "s.perse"
    )
    assert "1000 classes and room for 3," in shown[0] and Program.load(tmp_path / "s.perse").spare == 3
    assert "mug" in call("packs", room)[0]
