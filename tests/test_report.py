"""report.html: complete, self-contained, and whatever a name contains, no more than text."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from perse_compile.artifact import Artifact
from perse_compile.building.build import Built
from perse_compile.report import artifact_page

HOSTILE = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>'
CHROMIUM = Path("/usr/bin/chromium")


class Reader(HTMLParser):
    """Tags, attributes and text; every tag that opens closes."""

    EMPTY = ("meta", "br", "rect", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text, self.open = "", list[str]()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def built(build_tiny: Callable[[str], Built]) -> Built:
    return build_tiny("x86_64-linux")


def test_what_is_on_the_page(built: Built) -> None:
    page = (built.artifact.folder / "report.html").read_text(encoding="utf-8")
    assert page == artifact_page(built.artifact, built.device, built.selftest)
    read = Reader(page)
    assert built.selftest is not None
    for known, checked in zip(built.artifact.manifest["exits"], built.selftest["exits"], strict=True):
        assert read.text.count(known["name"]) >= 2 and known["tap"] in read.text
        assert f"{checked['max_rel_diff']:.1e}" in read.text
    assert "cameras corrected to" in read.text and "17 to 222, 17 to 222, 17 to 222 of 255" in read.text
    unknown = Artifact(built.artifact.folder, {**built.artifact.manifest, "levels": None})
    assert "cameras corrected to" not in artifact_page(unknown, None, None)
    assert "tiny for x86_64-linux" in read.text and "5 classes" in read.text and "32×32×3" in read.text
    assert "Verified against PyTorch on the machine that built it" in read.text
    for name in ("perse", "backbone.bin", "libperse.a"):
        assert name in read.text


def test_it_loads_nothing_from_elsewhere(built: Built) -> None:
    page = (built.artifact.folder / "report.html").read_text(encoding="utf-8")
    read = Reader(page)
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(read.tags)
    assert not {name for name, _ in read.attributes} & {"src", "href", "srcset", "action", "data", "xlink:href"}
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)
    assert ("lang", "en") in read.attributes and ("charset", "utf-8") in read.attributes


def test_under_the_emulator_and_nowhere(built: Built) -> None:
    page = artifact_page(built.artifact, "emulator", built.selftest)
    assert "Verified against PyTorch under the emulator" in page
    page = artifact_page(built.artifact, None, None)
    assert "<strong>Not verified</strong>" in page and "./perse selftest" in page
    assert page.count("not measured") == 3 and "Verified against" not in page


def test_hostile_names(built: Built) -> None:
    fields = built.artifact.manifest
    hostile = {
        **fields,
        "program": HOSTILE,
        "target": {**fields["target"], "name": HOSTILE, "description": HOSTILE},
        "exits": [{**exit, "tap": HOSTILE} for exit in fields["exits"]],
        "provenance": {"model": HOSTILE, "warnings": [HOSTILE], HOSTILE: HOSTILE},
        "tuning": {**fields["tuning"], "where": [HOSTILE]},
    }
    page = artifact_page(Artifact(built.artifact.folder, hostile), None, None)
    read = Reader(page)
    assert "script" not in read.tags and "img" not in read.tags and "onerror" not in dict(read.attributes)
    assert HOSTILE in read.text and "<script" not in page


def test_untrained_exits(built: Built, tmp_path: Path) -> None:
    from perse_compile import manifest

    folder = Path(shutil.copytree(built.artifact.folder, tmp_path / "a"))
    pack = manifest.read_pack(folder / "heads.pack")
    off = [replace(exit, enabled=False) for exit in pack.exits]
    (folder / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, exits=off)))
    assert "No early exit answers yet" in artifact_page(Artifact(folder, built.artifact.manifest), None, None)
    assert "No early exit answers yet" not in artifact_page(built.artifact, None, None)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium to render it")
def test_it_renders(built: Built, tmp_path: Path) -> None:
    page = (built.artifact.folder / "report.html").as_uri()
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--dump-dom",
        page,
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "<h1>tiny for x86_64-linux</h1>" in shown
