"""What the documents say is so: the C program works; links, commands, options, paths and layouts are right."""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.main import get_command

from perse_compile import manifest
from perse_compile.cli import app
from tests.artifacts import CLASSES, pictures, through_another_camera

ROOT = Path(__file__).parents[1]
DOCS = sorted(ROOT.glob("docs/*.md"))
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *DOCS]
C_FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
ZIG = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl", "-static", "-fno-sanitize=undefined"]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
TYPES = {"char[8]": "8s", "uint32": "I", "uint64": "Q", "float32": "f"} | {f"uint8[{n}]": f"{n}s" for n in (12, 16, 20)}


def blocks(text: str, language: str) -> list[str]:
    return [match[2] for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M) if match[1] == language]


def options_of(name: str) -> set[str]:
    with typer.Context(COMMANDS[name]) as context:
        return {option for parameter in COMMANDS[name].get_params(context) for option in parameter.opts}


def wrong_links(path: Path, text: str) -> list[str]:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [link for link in links if link and not (path.parent / link).exists()]


def wrong_commands(text: str) -> list[str]:
    """Subcommands that do not exist, and in blocks of commands options that they do not have."""
    wrong = [name for name in re.findall(r"perse-compile[ \n]([a-z][a-z-]*)", text) if name not in COMMANDS]
    for line in "\n".join(blocks(text, "")).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True) if "perse-compile" in line else []
        if words[:1] != ["perse-compile"] or words[1] not in COMMANDS:
            continue
        given = [word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)]
        wrong += [f"{words[1]} {option}" for option in given if option not in options_of(words[1])]
    return wrong


def wrong_paths(text: str) -> list[str]:
    found = re.findall(r"`((?:perse_compile|passes|targets|tests|docs|examples|benchmarks)/[\w./-]*)`", text)
    return [path for path in found if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_command_option_and_path_exists(path: Path) -> None:
    text = path.read_text()
    assert (wrong_links(path, text), wrong_commands(text), wrong_paths(text)) == ([], [], [])


def test_what_does_not_exist_is_found() -> None:
    assert wrong_links(FILES[0], "[a](LICENSE) [b](docs/x.md) [c](https://a.b/c) [d](#e)") == ["docs/x.md"]
    text = "`perse-compile fly`, `perse-compile build`\n```\n$ perse-compile run a -o b --device c # --x\n```\n"
    assert wrong_commands(text) == ["fly", "run -o"]
    assert wrong_paths("`passes/x.py` `tests/c` `perse_compile/cli.py` `docs/`") == ["passes/x.py"]
    assert [path.name for path in DOCS if f"](docs/{path.name})" not in FILES[0].read_text()] == []


def test_the_layouts_are_those_of_the_runtime() -> None:
    plan_h = re.sub(r"/\*.*?\*/", "", (ROOT / "perse_compile" / "runtime" / "plan.h").read_text(), flags=re.S)
    tables = (ROOT / "docs" / "artifact.md").read_text().split("| offset |")[1:]
    layouts = {"backbone_header": manifest.BACKBONE_HEADER, "pack_header": manifest.PACK_HEADER}
    layouts["pack_exit"] = manifest.PACK_EXIT
    layouts["cache_header"] = struct.Struct("<8sIIQIIIIQI12s")
    for table, (name, layout) in zip(tables, layouts.items(), strict=True):
        rows = re.findall(r"^\| (\d+) \| (\S+) \| `(\w+)` \|", table.partition("\n\n")[0], re.M)
        body = plan_h.partition(f"}} perse_{name};")[0].rpartition("typedef struct {")[2]
        assert [row[2] for row in rows] == re.findall(r"(\w+)(?:\[\d+\])?[,;]", body)
        sizes = [struct.calcsize("<" + TYPES[row[1]]) for row in rows]
        assert [int(row[0]) for row in rows] == [sum(sizes[:i]) for i in range(len(rows))]
        assert sum(sizes) == layout.size


@pytest.mark.parametrize("compiler", [["gcc"], ZIG], ids=["gcc", "zig"])
def test_the_c_program(artifact: Path, tmp_path: Path, compiler: list[str]) -> None:
    [program] = blocks((ROOT / "docs" / "library.md").read_text(), "c")
    (tmp_path / "learn.c").write_text(program)
    sources = [f"-I{artifact}", "learn.c", str(artifact / "libperse.a")]
    subprocess.run([*compiler, *C_FLAGS, *sources, "-lm", "-pthread", "-o", "learn"], cwd=tmp_path, check=True)
    pixels, labels = pictures(120, 20)
    through_another_camera(pixels).tofile(tmp_path / "images.bin")
    labels.astype(np.int32).tofile(tmp_path / "labels.bin")

    def learn(*words: str) -> tuple[int, str, str]:
        command = [str(tmp_path / "learn"), *words]
        result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        return result.returncode, result.stdout, result.stderr

    status, out, err = learn(str(artifact), "images.bin", "labels.bin")
    assert (status, err) == (0, "")
    answer = rf"({'|'.join(CLASSES)}), confidence [01]\.\d\d, [123] of 3 stages\n"
    figures = r"accuracy ([\d.]+) -> ([\d.]+), cost [\d.]+ -> [\d.]+\n"
    match = re.fullmatch(answer + "the new heads are better and in use\n" + figures + answer, out)
    assert match is not None and float(match[2]) < float(match[3]) and match[4] == CLASSES[labels[0]]
    assert manifest.read_pack(artifact / "heads.pack").generation == 1
    assert manifest.read_pack(artifact / "heads.pack.previous").generation == 0
    assert learn(str(artifact), "images.bin", "images.bin")[:2] == (1, "")
    assert learn("nowhere", "images.bin", "labels.bin")[::2] == (
        1,
        "no such file: nowhere: is this the artifact's folder?\n",
    )


def test_the_python_program(tmp_path: Path) -> None:
    """As it stands, with the examples beside it."""
    [program] = blocks((ROOT / "docs" / "python.md").read_text(), "python")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"}
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    answer, verdict, accuracy, counts = out.splitlines()
    assert re.fullmatch(r"[\w -]+ [01]\.\d\d (exit\d|final) [1-4] stages", answer), answer
    assert verdict == "the new heads are better and in use" and float(accuracy) > 0.8
    assert sum(map(int, re.findall(r"\d+", counts))) == 100
