"""The Python API: what a program and an artifact do from Python, and that they agree."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import perse_compile as pc
from perse_compile import driver, manifest
from perse_compile.errors import ArtifactError, DataError, PassError
from perse_compile.manifest import heads_id
from perse_compile.personalise.data import read_images
from perse_compile.personalise.levels import measure_levels
from perse_compile.personalise.picture import picture
from perse_compile.program import Program
from tests.artifacts import CLASSES, pictures, through_another_camera
from tests.helpers import flip

USERS = Path(__file__).parents[1] / "examples" / "users"


def same_answers(program: Program, folder: Path, pixels: Any, pack: Path | None) -> set[int]:
    """The module and the artifact say the same of every image; the exits that answered."""
    module = program.as_module()
    if pack is not None:
        module.use_pack(pack)
    said = module(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    artifact = pc.open_artifact(folder)
    for i, image in enumerate(pixels):
        answer = artifact.run(image)
        assert (answer.label, answer.exit) == (int(said.labels[i]), int(said.exits[i])), i
        assert answer.name == program.classes[answer.label] and answer.stages == answer.exit + 1
        np.testing.assert_allclose(answer.probabilities, said.probabilities[i].numpy(), atol=1e-4)
        assert answer.confidence == pytest.approx(float(said.confidence[i]), abs=1e-4)
        assert answer.probabilities.sum() == pytest.approx(1) and answer.probabilities.argmax() == answer.label
    return {int(exit) for exit in said.exits}


def test_the_module_equals_the_artifact(tiny: Program, artifact: Path, tmp_path: Path) -> None:
    pixels, _ = pictures(24, 3)
    assert len(same_answers(tiny, artifact, pixels, None)) >= 2
    mine, known = pictures(120, 20)
    np.savez(tmp_path / "mine.npz", images=through_another_camera(mine), labels=known, class_names=list(CLASSES))
    found = pc.personalise(artifact, tmp_path / "mine.npz")
    assert found["live"] and "<table>" in found._repr_html_() and found["exits"][0]["name"] in found._repr_html_()
    same_answers(tiny, artifact, through_another_camera(pixels), artifact / "heads.pack")


def test_the_camera_is_corrected_alike(tiny: Program, artifact: Path) -> None:
    pixels, _ = pictures(12, 4)
    pale = through_another_camera(pixels)
    pack = manifest.read_pack(artifact / "heads.pack")
    own = replace(pack, levels=np.array(measure_levels(pale), np.float32))
    (artifact / "heads.pack").write_bytes(manifest.encode_pack(own))
    module = tiny.as_module().use_pack(artifact / "heads.pack")
    assert module.camera is not None
    same_answers(tiny, artifact, pale, artifact / "heads.pack")
    for low, high in ((0.0, 3.0), (0.2, 200.0), (60.0, 254.0)):
        levels = np.tile(np.array([[low, high]], np.float32), (3, 1))
        (artifact / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, levels=levels)))
        same_answers(tiny, artifact, pale[:3], artifact / "heads.pack")


def test_a_module_wants_its_own_heads(tiny: Program, artifact: Path, tmp_path: Path) -> None:
    pack = manifest.read_pack(artifact / "heads.pack")
    assert pack.heads_id == heads_id(tiny)
    (tmp_path / "other.pack").write_bytes(manifest.encode_pack(replace(pack, heads_id=1)))
    with pytest.raises(ArtifactError, match="belongs to another network"):
        pc.EarlyExit(tiny).use_pack(tmp_path / "other.pack")
    with pytest.raises(PassError, match="has no exits"):
        pc.EarlyExit(replace(tiny, exits=[], stages=[]))
    module = tiny.as_module()
    assert not module.training and "heads.0.weight" in module.state_dict()


def test_what_an_image_may_be(tiny: Program, artifact: Path, tmp_path: Path) -> None:
    pixels, _ = pictures(1, 5)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    mean, std = np.array(tiny.input.mean), np.array(tiny.input.std)
    floats = ((pixels[0] / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
    opened = pc.open_artifact(artifact)
    given = [pixels[0], tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels[0]), floats]
    answers = [opened.run(image) for image in [*given, torch.from_numpy(floats)]]
    assert len({(answer.label, answer.exit) for answer in answers}) == 1
    assert max(answer.confidence for answer in answers) - min(answer.confidence for answer in answers) < 1e-5
    assert (
        picture(pixels[0][:, :, :1], tiny.input).shape
        == pixels[0].shape
        == picture(pixels[0][:, :, 0], tiny.input).shape
    )
    assert picture(np.zeros((50, 40, 4), np.uint8), tiny.input).dtype == np.uint8
    for wrong in (
        np.zeros((3, 9), np.float32),
        floats * np.nan,
        pixels[0].astype(np.int64),
        np.zeros((4, 4, 5), np.uint8),
    ):
        with pytest.raises(DataError, match="not an image"):
            picture(wrong, tiny.input)


def test_the_whole_way(tmp_path: Path, tiny: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save(Path("tiny.perse"))
    program = pc.load_program("tiny.perse")
    pixels, labels = pictures(120, 7)
    np.savez("data.npz", images=pixels, labels=labels, class_names=list(CLASSES))
    report = pc.train_exits(program, "data.npz", epochs=2)
    assert report["rows"][-1]["name"] == "final" and not Path("tiny.html").exists()
    artifact = pc.build(program, target="x86_64-linux")
    assert artifact.folder == Path("tiny-x86_64-linux") and (artifact.folder / "report.html").exists()
    figures = artifact.evaluate("data.npz")
    assert figures["samples"] == 120 and pc.show(artifact)["evaluated"]["samples"] == 120
    assert pc.show(program)["macs"] == pc.show(artifact)["macs"]
    assert artifact.personalise("data.npz", options={"epochs": "2"})["samples"]["judged"] > 0
    for shown in (program, artifact, artifact.run(pixels[0]), figures):
        html = shown._repr_html_()  # type: ignore[attr-defined]
        assert html.count("<table>") == html.count("</table>") >= 1 and "script" not in html
    assert "exit0" in program._repr_html_() and "tiny for x86_64-linux" in artifact._repr_html_()
    flip(artifact.folder / "backbone.bin", 5000)
    with pytest.raises(ArtifactError, match="is damaged"):
        pc.open_artifact(artifact.folder)


def test_insert_exits(monkeypatch: pytest.MonkeyPatch, tiny: Program) -> None:
    program = pc.insert_exits("squeezenet1_1", exits=1, weights="none", num_classes=4, input_size=(64, 64))
    assert [exit.name for exit in program.exits] == ["exit0", "final"] and "Warning" not in program._repr_html_()
    warned = replace(tiny, provenance={**tiny.provenance, "warnings": ["weights are random"]})
    monkeypatch.setattr(driver, "insert_exits", lambda *_, **__: warned)
    with pytest.warns(UserWarning, match="weights are random"):
        assert "weights are random" in pc.insert_exits("tiny")._repr_html_()


def test_import_is_instant() -> None:
    heavy = "{'torch', 'tvm', 'numpy', 'jinja2'}"
    code = f"import sys, perse_compile as pc; print(sorted({heavy} & set(sys.modules)), 'build' in dir(pc))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[] True"
    code = "import perse_compile as pc; pc.personalise; print(callable(pc.personalise), pc.run.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "True run"
    with pytest.raises(AttributeError, match="perse_compile has no 'fly'"):
        pc.fly  # noqa: B018


@pytest.mark.parametrize("user", ["ben", "carla"])
def test_bundled_images(user: str, bundled: tuple[Program, Path]) -> None:
    """The bundled network on real images, before and after its heads became a person's."""
    program, folder = bundled
    images = read_images(USERS / f"{user}-test.npz", program.input, program.classes)
    same_answers(program, folder, images.pixels[:20], None)
    pc.personalise(folder, USERS / f"{user}-train.npz")
    same_answers(program, folder, images.pixels[:20], folder / "heads.pack")
