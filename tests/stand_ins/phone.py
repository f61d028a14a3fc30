"""Phones for tests: what the stand-in adb sees, and what happens to them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNAME = """#!/bin/sh
case $1 in -m) echo {machine} ;; -s) echo Linux ;; -r) echo 5.10-android ;; esac
"""


@dataclass(frozen=True)
class Phones:
    """A folder that stands for all of them."""

    home: Path

    def install(self, machine: str = "aarch64") -> None:
        """`adb`, and `uname` as it answers on the phones."""
        for folder, name, text in (
            ("here", "adb", f'#!/bin/sh\nexec {sys.executable} -S -E {Path(__file__).parent / "adb.py"} "$@"\n'),
            ("bin", "uname", UNAME.format(machine=machine)),
        ):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
            (self.home / folder / name).write_text(text)
            (self.home / folder / name).chmod(0o755)

    def connect(self, *serials: str, state: str = "device", **facts: Any) -> None:
        """Exactly these; facts: old, broken, slow."""
        for serial in serials:
            (self.home / serial).mkdir(exist_ok=True)
        text = json.dumps({"devices": dict.fromkeys(serials, state), **facts})
        (self.home / "state.new").write_text(text)
        os.replace(self.home / "state.new", self.home / "state.json")

    def pull_the_cable(self) -> None:
        self.connect()

    def work(self, serial: str) -> Path:
        return self.home / serial / "perse-compile"
