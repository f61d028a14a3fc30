"""Programs on disk: exact, deterministic, checked, atomic."""

from __future__ import annotations

import json
import math
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import fx

from perse_compile import graph_json, safe_file
from perse_compile.dump import dump
from perse_compile.errors import PassError, ProgramError
from perse_compile.ops import OPS
from perse_compile.passes import default_pipeline
from perse_compile.program import Program
from tests import models
from tests.helpers import flip, images, prepared


@pytest.fixture
def program() -> Program:
    return prepared(models.Plain(), default_pipeline())


@pytest.fixture
def path(program: Program, tmp_path: Path) -> Path:
    program.save(tmp_path / "net.perse")
    return tmp_path / "net.perse"


@pytest.mark.parametrize("network", models.ALL)
def test_a_loaded_program_is_the_saved_one_bit_for_bit(network, tmp_path: Path) -> None:
    program = prepared(network(), default_pipeline())
    program.exits[0].temperature, program.provenance["training"] = 1.7, {"epochs": 3}
    program.save(tmp_path / "a.perse")
    loaded = Program.load(tmp_path / "a.perse")
    assert dump(loaded) == dump(program)
    assert (loaded.exits, loaded.cuts, loaded.stages) == (program.exits, program.cuts, program.stages)
    assert (loaded.provenance, loaded.passes, loaded.classes) == (program.provenance, program.passes, program.classes)
    assert loaded.input == program.input
    with torch.no_grad():
        for found, expected in zip(loaded.module(images(program)), program.module(images(program)), strict=True):
            assert torch.equal(found, expected)
    loaded.save(tmp_path / "b.perse")
    assert (tmp_path / "a.perse").read_bytes() == (tmp_path / "b.perse").read_bytes()


def test_saving_is_deterministic(program: Program, path: Path, tmp_path: Path) -> None:
    program.save(tmp_path / "again.perse")
    assert path.read_bytes() == (tmp_path / "again.perse").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.perse", "net.perse"]


def test_every_flipped_byte_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for at in [*range(0, 400, 7), *range(400, len(whole), len(whole) // 60), len(whole) - 1]:
        flip(path, at)
        with pytest.raises(ProgramError, match=r"net\.perse .*run insert-exits again"):
            Program.load(path)
        path.write_bytes(whole)
    Program.load(path)


def test_every_truncation_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 5, 8, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ProgramError, match=r"net\.perse .*run insert-exits again"):
            Program.load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ProgramError):
        Program.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"cannot read .*no\.perse: No such file.*insert-exits"):
        Program.load(tmp_path / "no.perse")


@pytest.mark.parametrize(
    "data", [b"hello, this is text, not a program", b"\x04\0\0\0\0\0\0\0null", save({"a": torch.zeros(2)})]
)
def test_not_a_program(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.perse").write_bytes(data)
    with pytest.raises(ProgramError, match=r"x\.perse is not a \.perse program"):
        Program.load(tmp_path / "x.perse")


def test_a_damaged_envelope(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"version": 1}'):
        (tmp_path / "x.perse").write_bytes(save({}, {"perse": text}))
        with pytest.raises(ProgramError, match="is damaged"):
            Program.load(tmp_path / "x.perse")


def test_another_version(tmp_path: Path) -> None:
    (tmp_path / "x.perse").write_bytes(save({}, {"perse": json.dumps({"version": 99, "sha256": "", "program": {}})}))
    with pytest.raises(
        ProgramError, match="is of program version 99, this perse-compile reads 1; run insert-exits again"
    ):
        Program.load(tmp_path / "x.perse")


def test_a_whole_file_that_describes_no_program(path: Path) -> None:
    body, tensors = safe_file.read(path)
    for change in (
        lambda b: b.pop("exits"),
        lambda b: b["graph"][0].update(op="call_module"),
        lambda b: next(n for n in b["graph"] if n["op"] == "call_function").update(target="eval"),
        lambda b: next(n for n in b["graph"] if n["op"] == "get_attr").update(target="nothing"),
        lambda b: b["graph"].insert(1, dict(b["graph"][0])),
        lambda b: b["exits"][0].update(extra=1),
    ):
        broken = json.loads(json.dumps(body))
        change(broken)
        safe_file.write(path, broken, tensors)
        with pytest.raises(ProgramError, match="does not describe a program"):
            Program.load(path)


def test_a_full_disk_leaves_the_old_file(program: Program, path: Path) -> None:
    old, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ProgramError, match=r"cannot write .*net\.perse: .*; free space or"):
            program.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["net.perse"]


def test_a_folder_that_is_not_there(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot write"):
        program.save(tmp_path / "no" / "net.perse")


def test_arguments_as_json() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.create_node("call_function", OPS["clamp"], (x, -math.inf, 1.0), name="y")
    graph.output((graph.create_node("call_function", OPS["concat"], ((y, y), 1), name="z"),))
    again = graph_json.decode(json.loads(json.dumps(graph_json.encode(graph), allow_nan=False)))
    assert [(n.name, str(n.args)) for n in again.nodes] == [(n.name, str(n.args)) for n in graph.nodes]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: setattr(n, "target", torch.relu), "not an operation"),
        (lambda n: setattr(n, "kwargs", {"a": 1}), "keyword arguments"),
        (lambda n: setattr(n, "args", (n.args[0], torch.float32)), "is not plain"),
    ],
)
def test_what_cannot_be_saved(program: Program, tmp_path: Path, change, message: str) -> None:
    change(program.node("relu"))
    with pytest.raises(TypeError, match=message):
        program.save(tmp_path / "x.perse")


def test_names_that_are_not_there(program: Program) -> None:
    for ask, kind in ((program.node, "node"), (program.exit, "exit"), (program.tensor, "tensor")):
        with pytest.raises(PassError, match=re.escape(f"no {kind} named 'nothing' in net")):
            ask("nothing")
    assert program.exit("final").name == "final"
    assert program.node("relu").name == "relu"
    assert program.tensor("final.weight").dim() == 2
