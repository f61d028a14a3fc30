"""The command line, for tests of tuning."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perse_compile import cli


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["perse-compile", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert int(caught.value.code or 0) == code, captured.err
        return captured.out, captured.err

    return run
