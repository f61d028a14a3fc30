"""The page of a program or an artifact: complete, self-contained, true, and whatever a name contains, only text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from perse_compile import driver, manifest
from perse_compile.artifact import Artifact, open_artifact
from perse_compile.building.build import Built
from perse_compile.devices import LocalDevice
from perse_compile.errors import ArtifactError, PerseError, ProgramError
from perse_compile.program import Program
from perse_compile.report import keep, records
from perse_compile.report.environment import FORMATS
from perse_compile.report.figures import artifact_figures, program_figures
from perse_compile.report.page import page
from perse_compile.report.show import write
from tests.helpers import flip

HOSTILE = '<script>alert("1")</script>&\'"><img src=x onerror=alert(1)>'


class Reader(HTMLParser):
    """Tags, attributes, text and figures; every tag that opens closes."""

    EMPTY = ("meta", "br", "rect", "link", "img", "path", "circle")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.figures: list[dict[str, str | None]] = []
        self.text, self.open = "", list[str]()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "data":
            self.figures.append({**dict(attrs), "text": ""})
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "data":
            self.figures[-1]["text"] = data


def check_figures(read: Reader, found: dict[str, Any]) -> int:
    """Each says where in `found` it is from, and is what stands there, so written."""
    for figure in read.figures:
        value: Any = found
        for part in str(figure["data-of"]).split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        raw = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        assert figure["value"] == raw and figure["text"] == FORMATS[str(figure["data-as"])](value), figure
    return len(read.figures)


@pytest.fixture
def built(build_tiny: Callable[[str], Built], tmp_path: Path) -> Built:
    """With what `build` measures, in a folder of its own."""
    ready = build_tiny("x86_64-linux")
    folder = Path(shutil.copytree(ready.artifact.folder, tmp_path / "tiny-x86_64-linux"))
    artifact = open_artifact(folder)
    keep.keep_build(artifact, ready.selftest, LocalDevice(), pytest.fail)
    return replace(ready, artifact=artifact)


def read(built: Built) -> Reader:
    return Reader((built.artifact.folder / "report.html").read_text(encoding="utf-8"))


# --- what is on it ----------------------------------------------------------------------------------------


def test_what_is_on_the_page(built: Built) -> None:
    found, seen = json.loads(json.dumps(driver.show(built.artifact.folder))), read(built)
    assert check_figures(seen, found) > 60 and found["page_is_stale"] is None
    for exit in found["exits"]:
        assert exit["name"] in seen.text and exit["tap"] in seen.text and 0 < exit["low"] <= exit["ms"] <= exit["high"]
    assert found["verified"]["greatest"] <= 1e-4 and sum(s["time_share"] for s in found["stages"]) == pytest.approx(1)
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"] == found["exits"][-1]["macs"]
    assert "cameras corrected to" in seen.text and "tiny for x86_64-linux" in seen.text
    assert "Verified against PyTorch on the machine that built it" in seen.text
    for name in ("perse", "backbone.bin", "libperse.a", "layers.json", f"heads.pack {found['heads']['crc32']:08x}"):
        assert name in seen.text
    for words in ("No study was made", "no search over places", "by default, not tuned"):
        assert words in seen.text or words in found["tuning"]["words"]


def test_of_a_program(tiny: Program, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny.perse")
    found, path = driver.show_html(tmp_path / "tiny.perse")
    seen = Reader(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "tiny.html" and check_figures(seen, json.loads(json.dumps(found))) > 50
    assert "A program has no times" in seen.text and found["trained"]["shares"].keys() == {"exit0", "exit1", "final"}
    assert found["curve"]["of"] == "train-exits" and found["curve"]["x"] == "cost" and found["time"] is None
    untrained = {**found, "trained": None, "curve": None}
    assert "No figures yet" in Reader(page(untrained)).text


def test_it_loads_nothing_from_elsewhere(built: Built) -> None:
    text = (built.artifact.folder / "report.html").read_text(encoding="utf-8")
    seen = Reader(text)
    assert not {"link", "iframe", "img", "object", "base", "form"} & set(seen.tags)
    assert not {name for name, _ in seen.attributes} & {"src", "srcset", "action", "data", "xlink:href"}
    assert all(str(value).startswith("#") for name, value in seen.attributes if name == "href")
    assert not re.search(r"https?:/|url\(|@import|fetch\(|XMLHttp", text)
    assert ("lang", "en") in seen.attributes and ("charset", "utf-8") in seen.attributes
    assert seen.tags.count("caption") == seen.tags.count("table") and seen.tags.count("h1") == 1
    assert {"header", "nav", "main", "footer", "title", "desc"} <= set(seen.tags)


def test_under_the_emulator_and_nowhere(built: Built) -> None:
    found = artifact_figures(built.artifact)
    elsewhere = {**found, "verified": {**found["verified"], "device": "emulator"}}
    assert "Verified against PyTorch under the emulator" in page(elsewhere)
    (built.artifact.folder / "measured.json").unlink()
    text = page(artifact_figures(built.artifact))
    assert "<strong>Not verified</strong>" in text and "./perse selftest" in text and "Verified against" not in text
    assert "Time is not measured" in text and "not measured" in text


def test_hostile_names(built: Built) -> None:
    fields = built.artifact.manifest
    hostile = {
        **fields,
        "program": HOSTILE,
        "target": {**fields["target"], "name": HOSTILE, "description": HOSTILE},
        "exits": [{**exit, "tap": HOSTILE} for exit in fields["exits"]],
        "provenance": {"model": HOSTILE, "warnings": [HOSTILE], "weights": {HOSTILE: HOSTILE}},
        "tuning": {**fields["tuning"], "where": [HOSTILE]},
    }
    found = artifact_figures(Artifact(built.artifact.folder, hostile))
    found["layers"] = [
        {**layer, **dict.fromkeys(("name", "block"), HOSTILE), "operations": [HOSTILE]} for layer in found["layers"]
    ]
    text = page(found)
    seen = Reader(text)
    assert seen.tags.count("script") == 1 and "img" not in seen.tags and "onerror" not in dict(seen.attributes)
    assert HOSTILE in seen.text and text.count("<script") == 1


def test_untrained_exits(built: Built) -> None:
    folder = built.artifact.folder
    assert "No early exit answers yet" not in page(artifact_figures(built.artifact))
    pack = manifest.read_pack(folder / "heads.pack")
    off = [replace(exit, enabled=False) for exit in pack.exits]
    (folder / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, exits=off)))
    assert "No early exit answers yet" in page(artifact_figures(built.artifact))


# --- it stays true ----------------------------------------------------------------------------------------


def test_a_page_of_other_files_is_told(built: Built) -> None:
    folder = built.artifact.folder
    pack = manifest.read_pack(folder / "heads.pack")
    (folder / "heads.pack").write_bytes(manifest.encode_pack(replace(pack, generation=7)))
    assert "is out of date" in driver.show(folder)["page_is_stale"]
    driver.show_html(folder)
    assert driver.show(folder)["page_is_stale"] is None and "generation" in read(built).text


def test_it_replaces_no_page_of_others(tiny: Program, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny.perse")
    (tmp_path / "tiny.html").write_text("my diary")
    with pytest.raises(ProgramError, match=r"tiny\.html is there and is not a page of perse-compile"):
        driver.show_html(tmp_path / "tiny.perse")
    told: list[str] = []
    keep.keep_program(tiny, tmp_path / "tiny.perse", told.append)
    assert len(told) == 1 and "no page of" in told[0] and (tmp_path / "tiny.html").read_text() == "my diary"
    with pytest.raises(ProgramError, match="no folder"):
        driver.show_html(tmp_path / "tiny.perse", tmp_path / "nowhere" / "x.html")
    with pytest.raises(ProgramError, match="is there and is not a page"):
        write(program_figures(tiny), tmp_path)


def test_what_was_measured_is_kept(built: Built) -> None:
    folder = built.artifact.folder
    assert set(records.read(folder)) == {"build", "bench"}
    records.note(folder, "evaluate", {"samples": 3})
    assert records.read(folder)["evaluate"]["heads_crc32"] == records.crc_of(folder / "heads.pack")
    flip(folder / "measured.json", 200)
    with pytest.raises(ArtifactError, match=r"measured\.json is damaged"):
        records.read(folder)
    assert any("measured.json is damaged" in warning for warning in artifact_figures(built.artifact)["warnings"])
    (folder / "measured.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"measured\.json is damaged"):
        records.read(folder)
    (folder / "measured.json").write_text('{"version": 9, "crc32": 0, "records": {}}')
    with pytest.raises(ArtifactError, match="is of version 9"):
        records.read(folder)
    records.note(folder, "evaluate", {"samples": 4})
    assert set(records.read(folder)) == {"evaluate"}


def test_a_page_that_cannot_be_written_is_told(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise PerseError("no room")

    told: list[str] = []
    monkeypatch.setattr(keep, "write", fails)
    monkeypatch.setattr(records, "note", fails)
    keep.keep(built.artifact, "evaluate", {}, told.append)
    assert [line.endswith("no room") for line in told] == [True, True] and "is not kept" in told[0]


def test_an_artifact_of_before_there_were_layers(built: Built) -> None:
    (built.artifact.folder / "layers.json").unlink()
    assert "does not know its layers" in page(artifact_figures(built.artifact))
