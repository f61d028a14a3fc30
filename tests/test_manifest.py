"""The contract between Python and C: what one writes the other reads, and neither believes a damaged byte."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perse_compile import manifest
from perse_compile.artifact import open_artifact
from perse_compile.errors import ArtifactError
from perse_compile.manifest import Pack, PackedExit, Probes
from perse_compile.program import Program
from tests.artifacts import SIZE


def a_pack() -> Pack:
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> manifest.Floats:
        return rng.normal(size=shape).astype(np.float32)

    sizes = ((False, 6), (True, 3), (True, 4))
    exits = [
        PackedExit(on, 0.5 + f, f / 7, floats(f), floats(f), floats(f, 2), floats(2)) for on, f in sizes
    ]  # fmt: skip
    return Pack(exits, 0xDEADBEEF, 3, np.array([[0, 194.5], [12.25, 201], [7, 99]], np.float32))


def same(left: Pack, right: Pack) -> bool:
    return manifest.encode_pack(left) == manifest.encode_pack(right)


def flips(path: Path, data: bytes, positions: range, reads: Any) -> list[int]:
    """Positions whose lowest bit can flip without an ArtifactError."""
    missed = []
    for at in positions:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            reads(path)
            missed.append(at)
        except ArtifactError as error:
            assert str(path) in str(error)
    return missed


# --- heads.pack -------------------------------------------------------------------------------------------


def test_a_pack_round_trips(tmp_path: Path) -> None:
    pack, path = a_pack(), tmp_path / "heads.pack"
    path.write_bytes(manifest.encode_pack(pack))
    found = manifest.read_pack(path)
    assert same(found, pack) and (found.heads_id, found.generation) == (0xDEADBEEF, 3)
    assert [e.enabled for e in found.exits] == [False, True, True]
    np.testing.assert_array_equal(found.exits[1].weight, pack.exits[1].weight)
    np.testing.assert_array_equal(found.levels, pack.levels)
    assert found.exits[2].temperature == 4.5 and found.exits[2].threshold == np.float32(4 / 7)


def test_every_byte_of_a_pack_counts(tmp_path: Path) -> None:
    data = manifest.encode_pack(a_pack())
    assert flips(tmp_path / "heads.pack", data, range(len(data)), manifest.read_pack) == []


@pytest.mark.parametrize("length", [0, 1, 8, 63, 64, 65, 95, 96, 200, -4, -1])
def test_a_cut_pack(tmp_path: Path, length: int) -> None:
    path = tmp_path / "heads.pack"
    path.write_bytes(manifest.encode_pack(a_pack())[:length])
    with pytest.raises(ArtifactError, match=r"heads.pack is damaged or cut short; .* --rollback"):
        manifest.read_pack(path)
    path.write_bytes(manifest.encode_pack(a_pack()) + b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        manifest.read_pack(path)


def test_another_kind_of_file_and_another_version(tmp_path: Path) -> None:
    path, data = tmp_path / "heads.pack", manifest.encode_pack(a_pack())
    path.write_bytes(b"PERSEBIN" + data[8:])
    with pytest.raises(ArtifactError, match="damaged"):
        manifest.read_pack(path)
    path.write_bytes(data[:8] + struct.pack("<I", 9) + data[12:])
    with pytest.raises(ArtifactError, match="is of format 9, this perse-compile reads 3"):
        manifest.read_pack(path)
    with pytest.raises(ArtifactError, match=r"cannot read .*none: No such file"):
        manifest.read_pack(tmp_path / "none")


def test_a_pack_that_lies_about_its_sizes(tmp_path: Path) -> None:
    path, data = tmp_path / "heads.pack", bytearray(manifest.encode_pack(a_pack()))
    for at, value in ((88, 1 << 30), (24, 9), (40, 1 << 29), (40, 4)):  # features of the first exit; exits; channels
        lying = bytearray(data)
        struct.pack_into("<I", lying, at, value)
        struct.pack_into("<I", lying, 12, zlib.crc32(lying[16:]))
        path.write_bytes(lying)
        with pytest.raises(ArtifactError, match="damaged"):
            manifest.read_pack(path)


# --- backbone.bin -----------------------------------------------------------------------------------------


def test_a_backbone(tmp_path: Path) -> None:
    probes = Probes(np.arange(2 * 5 * 5 * 3, dtype=np.uint8).reshape(2, 5, 5, 3), np.ones((2, 3, 4), np.float32))
    path, weights = tmp_path / "backbone.bin", [(0, np.full((2, 50), 2, np.float32)), (448, np.arange(9, dtype="f4"))]
    written = manifest.write_backbone(path, weights, 5000, b"p" * 100, probes)
    data = path.read_bytes()
    assert (written.size, written.crc32) == (len(data), manifest.checksum(data))
    fields = manifest.BACKBONE_HEADER.unpack_from(data)
    assert fields[:2] == (b"PERSEBIN", 3) and fields[3:] == (len(data), 4096, 5000, 12288, 100, 4, 2)
    assert fields[2] == zlib.crc32(data[16:])
    assert data[4096:4496] == weights[0][1].tobytes() and data[4496:4544] == bytes(48)
    assert data[4544:4580] == weights[1][1].tobytes() and data[12288:12388] == b"p" * 100
    assert data[16384:16459] == probes.images[0].tobytes() and data[16512:16587] == probes.images[1].tobytes()
    assert data[16640:] == np.ones(24, "<f4").tobytes()


# --- manifest.json ----------------------------------------------------------------------------------------

FIELDS = {"program": "x", "size": 3, "std": [0.25, 1e-3], "none": None, "names": ["Käfer", "a\nb"], "deep": {"a": {}}}


def test_a_manifest_round_trips(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest.encode_manifest(FIELDS))
    assert manifest.read_manifest(tmp_path) == {**FIELDS, "format": 3}


def test_the_order_of_the_fields_does_not_matter() -> None:
    assert manifest.encode_manifest(dict(reversed(FIELDS.items()))) == manifest.encode_manifest(FIELDS)


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    data = manifest.encode_manifest(FIELDS)
    missed = flips(tmp_path / "manifest.json", data, range(len(data)), lambda path: manifest.read_manifest(path.parent))
    assert missed == []


def test_a_cut_manifest(tmp_path: Path) -> None:
    data = manifest.encode_manifest(FIELDS)
    for length in range(len(data) - 2):
        (tmp_path / "manifest.json").write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=r"manifest.json is damaged"):
            manifest.read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{}", '{"crc32": 1}', "\xff"])
def test_not_a_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ArtifactError, match=r"manifest.json is damaged"):
        manifest.read_manifest(tmp_path)


def test_a_manifest_of_another_version_or_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*manifest.json: No such file.* is .* an artifact"):
        manifest.read_manifest(tmp_path)
    with pytest.raises(ArtifactError, match=r"no artifact at .*none; `perse-compile build` makes one"):
        manifest.read_manifest(tmp_path / "none")
    (tmp_path / "manifest.json").write_text(json.dumps({**FIELDS, "format": 2, "crc32": 0}))
    with pytest.raises(ArtifactError, match="is of format 2, this perse-compile reads 3"):
        manifest.read_manifest(tmp_path)


# --- with the runtime -------------------------------------------------------------------------------------


def perse(artifact: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run([artifact / "perse", *words, "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_c_reads_what_python_wrote(tiny: Program, artifact: Path) -> None:
    pack = manifest.pack_of(tiny, manifest.heads_id(tiny))
    first = replace(pack.exits[0], enabled=True, temperature=2.5, threshold=0.125)
    last = replace(pack.exits[-1], bias=np.array([0, 0, 0, 1e4, 0], np.float32))
    camera = np.array([[60, 160], [50, 150], [40.5, 140.25]], np.float32)
    written = Pack([first, *pack.exits[1:-1], last], pack.heads_id, 7, camera)
    (artifact / "heads.pack").write_bytes(manifest.encode_pack(written))
    _, info, _ = perse(artifact, "info")
    assert info["generation"] == 7 and info["class_names"] == tiny.classes
    assert [e["tap"] for e in info["exits"]] == [e.tap for e in tiny.exits]
    assert info["exits"][0]["enabled"] and info["exits"][0]["temperature"] == 2.5
    assert info["exits"][0]["threshold"] == 0.125
    assert info["levels"]["camera"] == camera.tolist() and info["levels"]["corrected"]
    assert tiny.levels is not None
    np.testing.assert_array_equal(np.float32(info["levels"]["factory"]), np.float32(tiny.levels))
    np.save(artifact / "x.npy", np.zeros((SIZE, SIZE, 3), np.uint8))
    _, answer, _ = perse(artifact, "run", str(artifact / "x.npy"), "--exit", str(len(tiny.exits) - 1))
    assert (answer["label"], answer["name"], answer["stages"]) == (3, "stripes", len(tiny.exits))


def test_python_reads_what_c_wrote(artifact: Path) -> None:
    before = manifest.read_pack(artifact / "heads.pack")
    perse(artifact, "reset")
    data = (artifact / "heads.pack").read_bytes()
    found = manifest.read_pack(artifact / "heads.pack")
    assert same(found, before) and manifest.encode_pack(found) == data


def test_unknown_levels(tiny: Program) -> None:
    untrained = replace(tiny, levels=None)
    assert manifest.pack_of(untrained, 1).levels.tolist() == [[0, 0]] * 3
    assert manifest.pack_of(tiny, 1).levels.tolist() == tiny.levels


@pytest.mark.parametrize("name", ["heads.pack", "backbone.bin"])
def test_c_trusts_no_damaged_header(artifact: Path, name: str) -> None:
    data = (artifact / name).read_bytes()
    unused = (32, 33) if name == "backbone.bin" else ()  # weights_size below a page: nothing depends on it
    for at in [
        *(at for at in range(64) if at not in unused),
        64,
        4096 if name == "backbone.bin" else 96,
        len(data) - 1,
    ]:
        (artifact / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        code, _, complaint = perse(artifact, "info")
        assert code == 1 and complaint.startswith("perse: ") and name in complaint, f"byte {at} of {name}"


def test_every_file_is_checked_before_use(artifact: Path) -> None:
    for path in sorted(artifact.iterdir()):
        if path.name == "report.html":
            continue  # for people; no part of the manifest
        data = path.read_bytes()
        for damaged in (data[:-2], data[: len(data) // 2], b"", data[:100] + bytes([data[100] ^ 4]) + data[101:]):
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=path.name):
                open_artifact(artifact)
        path.write_bytes(data)
        open_artifact(artifact)


def test_heads_of_another_artifact(tiny: Program, artifact: Path) -> None:
    (artifact / "heads.pack").write_bytes(manifest.encode_pack(manifest.pack_of(tiny, 1)))
    with pytest.raises(ArtifactError, match=r"heads.pack belongs to another artifact; .* --reset"):
        open_artifact(artifact)
    assert "heads belong to another artifact" in perse(artifact, "info")[2]


def test_a_missing_file(artifact: Path) -> None:
    (artifact / "plan.c").unlink()
    with pytest.raises(ArtifactError, match=r"cannot read .*plan.c: No such file"):
        open_artifact(artifact)
