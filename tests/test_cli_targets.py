"""The command `targets`: the list, one in full, a probed device; for people, as JSON, and when it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from perse_compile import cli, targets
from perse_compile.targets import probe
from tests import probes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """call("rk3588", code=0): what `targets` printed, and complained."""

    def run(*words: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["perse-compile", "targets", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert int(caught.value.code or 0) == code, captured.err
        return captured.out, " ".join(captured.err.split())

    return run


@pytest.fixture
def a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "run_on", {"ssh://pi@four": probes.PI_4, "adb": probes.PHONE}.__getitem__)


def test_the_list(call: Any) -> None:
    out, _ = call()
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert set(rows) == set(targets.names()) and "native is this machine" in out
    assert "4 x cortex-a76 (+ 4 x cortex-a55)" in rows["rk3588"] and "64, 512, 3072 shared by 8" in rows["rk3588"]
    assert "16 x 256 bits" in rows["x86_64-linux"] and "32, 512 (assumed)" in rows["x86_64-linux"]
    assert [t["name"] for t in json.loads(call("--json")[0])["targets"]] == targets.names()


def test_one_in_full(call: Any) -> None:
    out, _ = call("raspberry-pi-4")
    for text in ("Raspberry Pi 4", "4 x cortex-a72", "32, 1024 shared by 4", "bcm2711.dtsi", "AArch64SchedA57.td"):
        assert text in out
    assert "10 cycles, 4 to the next into the same register, 1 a cycle" in out
    assert "4 x cortex-a55: L1d 32 KB, L2 128 KB" in call("rk3588")[0]
    shown = json.loads(call("rk3588", "--json")[0])["target"]
    assert shown["clusters"][1] == {
        "core": "cortex-a55", "cores": 4, "megahertz": 0, "l1d_kilobytes": 32, "l2_kilobytes": 128
    }  # fmt: skip
    assert json.loads(call("native", "--json")[0])["target"]["name"] == "native"
    assert "unknown target 'toaster'" in call("toaster", code=1)[1]


def test_a_probed_device(call: Any, a_board: None) -> None:
    out, _ = call("--probe", "ssh://pi@four", "-o", "four.toml")
    assert "4 x cortex-a72" in out and "written: four.toml; build with --target four.toml" in out
    text = Path("four.toml").read_text()
    first, second = text.splitlines()[:2]
    assert first == "# Raspberry Pi 4 Model B Rev 1.4, as `perse-compile targets --probe ssh://pi@four` found it."
    assert second == "# Memory: 4000 MB."
    assert call("four.toml")[0].splitlines()[3:] == out.splitlines()[3:-1]
    written = json.loads(call("--probe", "adb", "-o", "four.toml", "--json")[0])
    assert written["written"] == "four.toml" and written["target"]["core"] == "cortex-a710"
    assert "2496 MHz" in call("four.toml")[0]


def test_a_probed_device_is_named_after_itself_and_replaces_nothing(call: Any, a_board: None) -> None:
    name = "raspberry-pi-4-model-b-rev-1-4.toml"
    assert f"written: {name}" in call("--probe", "ssh://pi@four")[0] and targets.load(name).cores == 4
    assert f"{name} is there already" in call("--probe", "ssh://pi@four", code=1)[1]


def test_what_cannot_be_done(call: Any, a_board: None) -> None:
    both = "give NAME to show a target, or --probe DEVICE [-o FILE] to describe a device"
    assert both in call("rk3588", "--probe", "adb", code=1)[1] and both in call("-o", "x.toml", code=1)[1]
    assert "x.json must end in .toml" in call("--probe", "adb", "-o", "x.json", code=1)[1]
    assert "cannot write no/x.toml: No such file" in call("--probe", "adb", "-o", "no/x.toml", code=1)[1]
