"""The pages in a real browser: on a phone and on a desktop, light and dark; figures are those of `show --json`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perse_compile import driver
from perse_compile.artifact import open_artifact
from perse_compile.building.build import Built
from perse_compile.devices import LocalDevice
from perse_compile.program import Program
from perse_compile.report import keep
from perse_compile.report.environment import FORMATS
from tests.artifacts import CLASSES, pictures, required, through_another_camera
from tests.chromium import Chromium, program

SIZES = [pytest.param(390, 844, id="phone"), pytest.param(1280, 900, id="desktop")]
FIGURES = "[...document.querySelectorAll('data')].map(e => [e.dataset.of, e.dataset.as, e.value, e.textContent])"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Numbers that stand outside of a figure: not in code, times, drawings and names.
NAMES = "data, code, time, svg, script, th, button, h1, header .soft, .legend, [data-label=reads]"
NAMES += ", [data-label=stage], [data-label=computes], [data-label=block]"
LOOSE = (
    r"""(() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  for (let node; (node = walker.nextNode());)
    if (/\d/.test(node.data) && !node.parentElement.closest('NAMES'))
      found.push(node.parentElement.outerHTML.slice(0, 300));
  return found;
})()"""
).replace("NAMES", NAMES)
CONTRAST = r"""(() => {
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parts = (rgb) => rgb.match(/[\d.]+/g).map(Number);
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (rgb) => parts(rgb).slice(0, 3).map(channel).reduce((sum, v, i) => sum + weights[i] * v, 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  let least = [99, ''];
  for (const e of document.querySelectorAll('h1, h2, h3, p, td, th, dt, dd, a, button, summary, caption, li, code')) {
    if (!e.textContent.trim() || !e.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 200)];
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    path = program()
    if path is None and "ID=debian" not in _system():
        pytest.skip("no Chromium; on Ubuntu it is a snap: install Chrome, or set PERSE_CHROMIUM")
    started = Chromium(required("chromium", path, "apt-get install chromium"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(
    build_tiny: Callable[[str], Built], tiny: Program, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each page with the figures that it must have."""
    import numpy as np

    folder = tmp_path_factory.mktemp("pages")
    tiny.save(folder / "tiny.perse")
    found, page = driver.show_html(folder / "tiny.perse")
    made = {"program": (page, found)}
    ready = build_tiny("x86_64-linux")
    pixels, labels = pictures(120, 20)
    np.savez(folder / "mine.npz", images=through_another_camera(pixels), labels=labels, class_names=list(CLASSES))
    for name in ("built", "personal", "studied"):
        artifact = open_artifact(Path(shutil.copytree(ready.artifact.folder, folder / name)))
        keep.keep_build(artifact, ready.selftest, LocalDevice(), pytest.fail)
        if name != "built":
            driver.personalise(artifact.folder, folder / "mine.npz")
            driver.evaluate(artifact.folder, folder / "mine.npz")
        made[name] = (artifact.folder / "report.html", driver.show(artifact.folder))
    many, known = pictures(400, seed=7)
    np.savez(folder / "many.npz", images=many, labels=known, class_names=list(CLASSES))
    options = {"users": 2, "seeds": 1, "samples": (40, 20), "labels": (1.0, 0.0), "test": 30, "baselines": ("hard",)}
    study = driver.study(
        folder / "studied", folder / "many.npz", output=folder / "study", progress=lambda *_: None, baseline_users=1,
        **options,
    )  # fmt: skip
    made["studied"] = (folder / "studied" / "report.html", driver.show(folder / "studied"))
    assert made["studied"][1]["study"]["people"]["count"] == 2
    return {**made, "study": (folder / "study" / "study.html", study)}


KINDS = ["program", "built", "personal", "studied", "study"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_reads_well(pages: Any, browser: Chromium, kind: str, width: int, height: int) -> None:
    page, found = pages[kind]
    browser.open(page, width, height, phone=width < 500)
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.complaints == [] and browser.evaluate(SIDEWAYS) == 0
    assert browser.evaluate("document.documentElement.clientWidth") == width
    told, figures = json.loads(json.dumps(found)), browser.evaluate(FIGURES)
    assert len(figures) > 40
    for path, kind_of, value, text in figures:
        at: Any = told
        for part in path.split("."):
            at = at[int(part)] if isinstance(at, list) else at[part]
        assert value == (" ".join(map(str, at)) if isinstance(at, list) else str(at)), path
        assert text == FORMATS[kind_of](at) and _close(text, at, kind_of), path
    assert browser.evaluate(LOOSE) == []


def _close(text: str, value: Any, kind: str) -> bool:
    """The number that is read is the one that is meant, within its last digit."""
    if kind in ("shape", "plain", "crc"):
        return True
    match = re.fullmatch(r"([+-]?[\d,.]+(?:e[+-]\d+)?) ?(\D*)", text)
    assert match is not None, text
    number, unit = float(match[1].replace(",", "")), match[2].strip()
    scale = {"%": 0.01, "G": 1e9, "M": 1e6, "k": 1e3, "MB": 1e6, "KB": 1e3}.get(unit, 1)
    scale *= {"points": 0.01, "tenths": 0.01, "lost": -0.01}.get(kind, 1)
    digits = len(match[1].partition("e")[0].partition(".")[2])
    exponent = int(match[1].partition("e")[2] or 0)
    return abs(number * scale - value) <= 0.51 * 10.0 ** (exponent - digits) * abs(scale)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["personal", "study"])
def test_it_is_seen_in_light_and_dark(pages: Any, browser: Chromium, kind: str, dark: bool) -> None:
    browser.open(pages[kind][0], 1280, 900, dark)
    ratio, where = browser.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 300) is dark


def test_the_graph_zooms(pages: Any, browser: Chromium) -> None:
    page, found = pages["personal"]
    browser.open(page, 1280, 900)
    box = "document.getElementById('graph').getAttribute('viewBox').split(' ').map(Number)"
    whole = browser.evaluate(box)
    assert whole[2] >= float(browser.evaluate("document.getElementById('graph').dataset.width"))
    browser.evaluate("document.querySelector('[data-zoom=in]').click()")
    nearer = browser.evaluate(box)
    assert nearer[2] == pytest.approx(whole[2] / 1.5)
    browser.evaluate("document.querySelector('[data-zoom=fit]').click()")
    assert browser.evaluate(box) == pytest.approx(whole)
    press = "document.querySelector('.frame').dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    browser.evaluate(press % "ArrowRight")
    assert browser.evaluate(box)[0] > whole[0]
    browser.evaluate(press % "0")
    wheel = "new WheelEvent('wheel', {deltaY: -200, ctrlKey: true, cancelable: true, clientX: 600, clientY: 400})"
    browser.evaluate(f"document.querySelector('.frame').dispatchEvent({wheel})")
    assert browser.evaluate(box)[2] < whole[2]
    browser.evaluate("document.querySelectorAll('.strip [data-to-stage]')[1].click()")
    assert browser.evaluate(box)[0] > whole[0]
    browser.evaluate("document.querySelector('[data-find=\"3\"]').click()")
    words = browser.evaluate("document.getElementById('layer-words').textContent")
    assert found["layers"][3]["name"] in words and len(
        browser.evaluate("[...document.querySelectorAll('.on')].map(e => 1)")
    )
    assert browser.complaints == []


def test_what_a_screen_reader_finds(pages: Any, browser: Chromium) -> None:
    browser.open(pages["personal"][0], 390, 844, phone=True)
    nodes = browser.call("Accessibility.getFullAXTree", page=True)["nodes"]
    roles = [(node.get("role", {}).get("value"), node.get("name", {}).get("value", "")) for node in nodes]
    assert {"main", "navigation", "banner", "contentinfo"} <= {role for role, _ in roles}
    assert all(name for role, name in roles if role in ("button", "link", "image", "heading", "table", "region"))
    assert sum(role == "heading" for role, _ in roles) >= 9


def test_it_prints(pages: Any, browser: Chromium) -> None:
    import base64

    browser.open(pages["personal"][0], 1280, 900)
    data = base64.b64decode(browser.call("Page.printToPDF", page=True, printBackground=True)["data"])
    assert data.startswith(b"%PDF") and 2 <= data.count(b"/Type /Page\n") <= 8


def _system() -> str:
    path = Path("/etc/os-release")
    return path.read_text() if path.exists() else ""
