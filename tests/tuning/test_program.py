"""The measuring program in C, by itself: sanitizers, kernels that refuse, clocks that jump, wrong use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perse_compile.building.link import RUNTIME, WARNINGS
from perse_compile.errors import DeviceError
from perse_compile.tuning.instructions import Marked, count, count_by_function
from perse_compile.tuning.linking import EXECUTABLE, PROGRAM
from tests.artifacts import emulator

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("program")
    (folder / "data").write_bytes(np.linspace(-1, 1, 16, dtype=np.float32).tobytes())
    sanitize = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Dclock_gettime=mock_clock"]
    files = [str(path) for path in [*EXECUTABLE, Path(__file__).parent / "mock_batch.c"]]
    include = [f"-I{PROGRAM}", f"-I{RUNTIME}"]
    command = ["gcc", *WARNINGS, *sanitize, *include, *files, "-pthread", "-lm", "-o", "batch"]
    subprocess.run(command, cwd=folder, check=True)

    def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [folder / "batch", *arguments], cwd=folder, capture_output=True, text=True, check=False, **more
        )  # type: ignore[call-overload,no-any-return]

    return run


def test_what_goes_wrong_on_the_device(program: Program) -> None:
    result = program("data", "--threads", "2", "--repeats", "5", "--limit", "5", "--sweep", "100000")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["candidate"] for line in lines] == list(range(7))
    assert [line.get("error") for line in lines] == [
        None,
        "a kernel failed: ValueError:  no   workspace",
        "a kernel failed: ValueError:  no   workspace",
        "the device's clock jumps",
        None,
        "no memory or threads for it on the device",
        None,
    ]
    for line in (lines[0], lines[4], lines[6]):
        assert len(line["seconds"]) >= 5 and all(0 < seconds < 5 for seconds in line["seconds"])
        values = np.linspace(-1, 1, 16, dtype=np.float32)
        norms = [float(np.sqrt(np.square(values[16 * s // 64 : 16 * (s + 1) // 64]).sum())) for s in range(64)]
        assert np.allclose(line["norms"], norms)
        assert np.allclose(np.abs(line["sums"]), norms)


def test_wrong_use(program: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for arguments, says in (
        ([], "batch: which DATA?"),
        (["gone"], "batch: No such file or directory gone"),
        ([str(tmp_path / "empty")], f"batch: empty file {tmp_path / 'empty'}"),
        (["data", "--colour", "1"], "batch: unknown option --colour"),
        (["data", "--marked", "9"], "batch: no candidate of that number"),
    ):
        result = program(*arguments)
        assert (result.returncode, result.stderr.strip()) == (2, says)
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*program("data", "--mark").args[:1], "data"],
            cwd=Path(program("data", "--mark").args[0]).parent, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert result.returncode == 2 and "cannot print: No space left" in result.stderr


def test_marked(program: Program) -> None:
    assert int(program("data", "--mark").stdout) > 0
    assert program("data", "--marked", "0").stdout == "[]"
    for refused in ("1", "5", "6"):
        assert program("data", "--marked", refused).returncode == 1


def test_instructions_by_function(tmp_path: Path) -> None:
    """Of a function and all that it calls, up to the next one that was asked for."""
    path = emulator("x86_64-linux")
    loop = "for (volatile int i = 0; i < 1000 * {}; i++);"
    (tmp_path / "loops.c").write_text(
        f"""static void inner(void) {{ {loop.format(2)} }}
static void first(void) {{ {loop.format(1)} inner(); }}
static void second(void) {{ {loop.format(6)} }}
int main(void) {{ first(); second(); return 0; }}
"""
    )
    subprocess.run(["gcc", "-O0", "-static", "loops.c", "-o", "loops"], cwd=tmp_path, check=True)
    command = [path, str(tmp_path / "loops")]
    found = count_by_function(command, ["first", "second", "third"])
    assert set(found) == {"", "first", "second"} and found["third"] == 0
    assert sum(found.values()) == count(command)
    assert found["second"] / found["first"] == pytest.approx(2, rel=0.2) and found["first"] > 3 * 3000


def test_programs_that_cannot_be_counted(tmp_path: Path) -> None:
    path = emulator("x86_64-linux")
    for name, code in (("fails", "return 3;"), ("hangs", "pause(); return 0;"), ("right", "return 0;")):
        (tmp_path / f"{name}.c").write_text(f"#include <unistd.h>\nint main(void) {{ {code} }}\n")
        subprocess.run(["gcc", "-O1", "-static", f"{name}.c", "-o", name], cwd=tmp_path, check=True)
    assert 500 < count([path, str(tmp_path / "right")]) < 1_000_000
    with pytest.raises(DeviceError, match="fails ended with status 3"):
        count([path, str(tmp_path / "fails")])
    with pytest.raises(DeviceError, match="took longer than 1 s"):
        Marked(path, tmp_path / "hangs", tmp_path, 0).count(0, 1)
    with pytest.raises(DeviceError, match=r"fails does not run under .*qemu-x86_64-static"):
        Marked.of(path, tmp_path / "fails", tmp_path)
