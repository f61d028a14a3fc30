"""The front as a picture: a page of its own, or an SVG alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from perse_compile.devices.files import written_atomically
from perse_compile.errors import DataError
from perse_compile.placement.points import limit
from perse_compile.report.environment import render
from perse_compile.study.chart import Line, chart

if TYPE_CHECKING:
    from perse_compile.placement.place import Placement

KINDS = (".html", ".svg")
COLOURS = ("#0b6bcb", "#b3541e", "#1a7f37", "#8250df", "#bf3989", "#6e7781")  # readable on white and on black
SVG_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#6e7781}.grid{stroke:#8b949e;stroke-opacity:.4;fill:none}"
    ".line{fill:none;stroke-width:2}"
    + "".join(f"path.c{i}{{stroke:{c}}}circle.c{i}{{fill:{c}}}" for i, c in enumerate(COLOURS))
)


def check_can_draw(path: Path | None) -> None:
    """Before the work, not after it. Raises DataError."""
    if path is None:
        return
    if path.suffix not in KINDS:
        raise DataError(f"--plot {path} must end in {' or '.join(KINDS)}")
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent} to write {path.name} to; make it, or choose another place")


def draw(name: str, found: Placement, path: Path) -> None:
    """Write it. Raises DeviceError when the disk does not take it."""
    text = placement_page(name, found) if path.suffix == ".html" else svg(found)
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def placement_page(name: str, found: Placement) -> str:
    """One self-contained page."""
    picture = Markup(front_chart(found))
    return render("placement.html.jinja", found.as_dict(), name=name, picture=picture, limit=limit)


def svg(found: Placement) -> str:
    """The picture without a page: its own colours, and no legend but the titles of its points."""
    picture = front_chart(found).partition("</svg>")[0]
    opened = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, rest = opened.partition(">")
    return f"{head}><style>{SVG_STYLE}</style>{rest}</svg>\n"


def front_chart(found: Placement) -> str:
    """Cost against accuracy, in percent, or milliseconds where they were measured."""
    ms = found.costs.full_ms
    scale, unit = (100.0, "mean cost, % of the full network") if ms is None else (ms, "mean milliseconds an image")

    def at(figures: Any) -> tuple[float, float]:
        return scale * figures.cost, 100 * figures.accuracy

    chosen = found.point
    return chart(
        [
            Line("front, on the images of the search", [at(point.search) for point in found.front]),
            Line("its cascades, on the images of the report", [at(point.report) for point in found.front], dashed=True),
            Line("truncated there, no choice", sorted(at(one) for one in found.candidates)),
            Line("chosen, on both", sorted([at(chosen.search), at(chosen.report)])),
            Line("full network, on both", [at(full) for full in found.full]),
        ],
        unit,
        "accuracy, %",
    )
