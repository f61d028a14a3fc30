"""The one environment of all pages: templates, how figures are written, and where each comes from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def _size(value: int) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.1f} KB" if value >= 1e3 else f"{value} bytes"


def _macs(value: int) -> str:
    return (
        f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value / 1e3:.1f} k"
    )


FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": lambda share: f"{100 * share:.1f} %",
    "whole_percent": lambda share: f"{100 * share:.0f} %",
    "points": lambda value: f"{100 * value:+.1f}",
    "tenths": lambda value: f"{100 * value:.1f}",
    "lost": lambda value: f"{-100 * value:.1f}",
    "count": lambda number: f"{number:,}",
    "plain": str,
    "three": lambda number: f"{number:.3f}",
    "two": lambda number: f"{number:.2f}",
    "one": lambda number: f"{number:.1f}",
    "tiny": lambda number: f"{number:.1e}",
    "ms": _ms,
    "seconds": lambda number: f"{number:.2f} s",
    "bytes": _size,
    "macs": _macs,
    "crc": lambda number: f"{number:08x}",
    "shape": lambda sizes: "×".join(map(str, sizes)),
}
NONE = Markup('<span class="none">–</span>')


class Source:
    """Writes figures: each says in `data-of` where in the JSON of `show` it is, and in `value` what stands there."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def __call__(self, path: str, format: str) -> Markup:
        value = self.value(path)
        if value is None:
            return NONE
        raw = value if isinstance(value, str | int | float) else " ".join(map(str, value))
        text = FORMATS[format](value)
        return Markup('<data data-of="{}" data-as="{}" value="{}">{}</data>').format(path, format, raw, text)

    def value(self, path: str) -> Any:
        found = self.root
        for part in path.split("."):
            if found is None:
                return None
            found = found[int(part)] if isinstance(found, list) else found.get(part)
        return found


@cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FORMATS, place=lambda device: "this machine" if device == "local" else device)
    made.globals.update(style=_inline("style.css"), script=_inline("graph.js"))
    return made


def render(template: str, root: Any, **more: Any) -> str:
    """A page of `root`, which templates reach as `d`, and whose figures `f(path, format)` writes."""
    return environment().get_template(template).render(d=root, f=Source(root), **more)


def _inline(name: str) -> Markup:
    """Ours, so it is not escaped."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8").strip())
