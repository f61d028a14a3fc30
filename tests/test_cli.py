"""Commands: what they print, what they exit with, and where errors become one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perse_compile import cli, console, weights
from perse_compile.errors import ModelError, PassError, ProgramError


def call(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["perse-compile", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "unreachable", lambda url: "offline")


def test_help_imports_neither_torch_nor_tvm() -> None:
    code = "import sys, perse_compile.cli; print([m for m in ('torch', 'tvm', 'numpy') if m in sys.modules])"
    root = Path(__file__).parents[1]
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_insert_exits_prints_a_table_and_writes(tmp_path: Path, capsys, monkeypatch) -> None:
    assert call("insert-exits", "tests.models:plain", "--exits", "relu", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("exit0", "relu", "share of MACs", "head parameters", "plain.perse", "5 classes")
    )
    assert (tmp_path / "plain.perse").exists()


def test_insert_exits_as_json(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "o").mkdir()
    assert (
        call(
            "insert-exits",
            "tests.models:plain",
            "--json",
            "-o",
            "o",
            "--dump",
            "d",
            "--num-classes",
            "3",
            monkeypatch=monkeypatch,
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["program"] == "o/plain.perse"
    assert found["exits"][-1] == {
        "name": "final",
        "tap": "mean",
        "grid": 1,
        "features": 8,
        "macs": 92672,
        "share": 1.0,
        "head_parameters": 27,
        "head": "own",
        "head_words": "own",
        "projected": 0,
        "head_bytes": 172,
        "pack_bytes": 172,
        "cache_bytes": 16,
    }
    assert len(list((tmp_path / "d").iterdir())) == 9


def test_random_weights_cannot_be_missed(capsys, monkeypatch) -> None:
    assert call("insert-exits", "squeezenet1_1", "--input-size", "64x64", "--json", monkeypatch=monkeypatch) == 0
    captured = capsys.readouterr()
    assert "WARNING" in captured.err
    assert "random weights" in captured.err
    assert json.loads(captured.out)["warnings"]


def test_list(capsys, monkeypatch) -> None:
    assert call("insert-exits", "tests.models:plain", "--list", monkeypatch=monkeypatch) == 0
    assert "relu_1" in capsys.readouterr().out
    assert call("insert-exits", "tests.models:plain", "--list", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["cuts"][-1]["share"] == 1.0


def test_models(capsys, monkeypatch) -> None:
    assert call("models", monkeypatch=monkeypatch) == 0
    assert "resnet50\n" in capsys.readouterr().out
    assert call("models", "--json", monkeypatch=monkeypatch) == 0
    assert "mobilenet_v2" in json.loads(capsys.readouterr().out)["models"]


def test_an_error_is_one_line(capsys, monkeypatch) -> None:
    assert call("insert-exits", "resnet5", monkeypatch=monkeypatch) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown model 'resnet5'; did you mean resnet50")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_debug_shows_the_traceback(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["perse-compile", "--debug", "insert-exits", "resnet5"])
    with pytest.raises(ModelError):
        cli.main()


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["perse-compile", "models"])
    monkeypatch.setattr(cli.driver, "list_models", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_parsing() -> None:
    assert (cli.parse_size(None), cli.parse_size("64"), cli.parse_size("64x32")) == (None, (64, 64), (64, 32))
    assert (cli.parse_exits("auto"), cli.parse_exits("2"), cli.parse_exits("a, b")) == ("auto", 2, ("a", "b"))
    for text in ("x", "0", "1x2x3", "-5"):
        with pytest.raises(ModelError, match="is not a size"):
            cli.parse_size(text)
    with pytest.raises(PassError, match="--exits is empty"):
        cli.parse_exits(",")


def test_output_in_a_folder_that_is_not_there(monkeypatch) -> None:
    with pytest.raises(ProgramError, match=r"no folder no to write x.perse to"):
        cli.driver.insert_exits("tests.models:plain", output=Path("no/x.perse"))


def test_what_is_pushed_is_counted_in_bytes() -> None:
    from rich.progress import Progress

    with Progress(disable=True) as bars:
        tasks = [bars.add_task(what, total=4_000_000) for what in ("pushing backbone.bin", "features")]
        for task in tasks:
            bars.update(task, completed=1_000_000)
        amounts = [console._Amount().render(bars.tasks[task]).plain for task in tasks]
    assert amounts == ["1.0/4.0 MB", "1000000/4000000"]
