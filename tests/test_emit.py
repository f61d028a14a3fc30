"""plan.c: any text survives as a C string, no name slips through, and the whole file reads as its golden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perse_compile import __version__, targets
from perse_compile.building.emit_c import Backbone, _comment, c_name, c_string, emit
from perse_compile.building.link import WARNINGS
from perse_compile.errors import BuildError
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.network import lower
from perse_compile.passes import default_pipeline
from tests import models
from tests.helpers import prepared

TEXTS = [
    "cat", "", 'say "cat"', "back\\slash\\", "two\nlines\r\n\ttab", "Kätzchen, Größe 7, 猫, 🐈", "ä1", "\x0112",
    "??/", "what??!", '??/"', "\\??/", "*/ int x; /*", "// no", "%s %n", "\x7f", "\b\f\v\a", "'", "\\u0041", "\u2028",
]  # fmt: skip


def test_c_string(tmp_path: Path) -> None:
    """What a C compiler with trigraphs (-std=c11 has them) reads is what was written."""
    strings = "\n".join(f"    {c_string(text)}," for text in TEXTS)
    main = "int main(void) { for (int i = 0; i < N; i++) fwrite(s[i], 1, strlen(s[i]) + 1, stdout); return 0; }"
    source = f"#include <stdio.h>\n#include <string.h>\nenum {{ N = {len(TEXTS)} }};\n"
    source += f"static const char *const s[] = {{\n{strings}\n}};\n{main}\n"
    assert source.isascii()
    (tmp_path / "s.c").write_text(source)
    subprocess.run(["gcc", *WARNINGS, "s.c", "-o", "s"], cwd=tmp_path, check=True)
    output = subprocess.run([tmp_path / "s"], capture_output=True, check=True).stdout
    assert output.split(b"\0")[:-1] == [text.encode() for text in TEXTS]


@pytest.mark.parametrize("compiler", [["gcc"], [sys.executable, "-m", "ziglang", "cc"]], ids=["gcc", "zig"])
def test_comments(tmp_path: Path, compiler: list[str]) -> None:
    texts = [*TEXTS, "*/*", "/*/", "**/", "*\\/", "???/", "\r"]
    (tmp_path / "c.c").write_text("".join(f"/* {_comment(text)} */\n" for text in texts) + "int x;\n")
    subprocess.run([*compiler, *WARNINGS, "-c", "c.c"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "é", "a;", "a\n", "a" * 300])
def test_what_cannot_be_an_identifier(name: str) -> None:
    with pytest.raises(BuildError, match="cannot be a C identifier"):
        c_name(name)


def test_what_can() -> None:
    assert [c_name(name) for name in ("exit0", "_x", "perse_k_7")] == ["exit0", "_x", "perse_k_7"]


def test_golden(golden) -> None:
    program = prepared(models.Plain(), default_pipeline(("relu",)), "plain")
    program.classes = ['"cat"', "Käfer", "a\nb", "*/", "??/"]
    text = emit(lower(program, Choices(targets.load("x86_64-linux"))), Backbone(4096, 1, 2))
    assert not any(place in text for place in (str(Path.cwd()), str(Path.home()), "/tmp", "0x", "0X"))
    golden("plan-plain", text.replace(__version__, "VERSION"))
