"""docs/own-model.md does what it says: its commands run, its messages are those of the code."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perse_compile import cli, mends
from perse_compile.program import Program

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "own-model.md").read_text()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In order, in a folder of their own; `python` and `perse-compile` without new processes."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("users", "*.npz"))
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "examples" / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "examples")
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    [block] = re.findall(r"```\n(\$ cd examples\n.*?)```", TEXT, re.S)
    for line in block.splitlines():
        program, *words = shlex.split(line.removeprefix("$ "))
        monkeypatch.setattr(sys, "argv", [program, *words])
        if program == "cd":
            monkeypatch.chdir(words[0])
        elif program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code in (None, 0), capsys.readouterr()
    out = capsys.readouterr().out
    assert re.search(r"photo\.png.*(ash|birch|elm|oak)", out.replace("\n", " "))
    program = Program.load(Path("leaf_net.perse"))
    assert program.classes == ["ash", "birch", "elm", "oak"]
    assert (program.input.height, program.input.width, program.input.mean) == (64, 96, (0.4, 0.5, 0.3))
    assert [exit.name for exit in program.exits] == ["exit0", "exit1", "final"]
    assert program.provenance["weights"]["name"] == "leaf_net.pth"


def test_the_messages() -> None:
    rows = {row.strip() for row in re.findall(r"^\| ([^|]+) \| [^|]+ \|$", TEXT.partition("When it cannot")[2], re.M)}
    known = {reason for _, _, reason, _ in mends.TRACING}
    elsewhere = {"takes … beside the image", "computes something else when traced", "no operation for this", "message"}
    assert rows - known == elsewhere
    assert known - rows == {"a scripted module", "it has no forward"}
