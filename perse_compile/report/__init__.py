"""report.html: what a person would rather look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

FOLDER = Path(__file__).parent


def artifact_page(manifest: dict[str, Any], exits: list[dict[str, Any]], device: str | None, selftest: dict[str, Any] | None) -> str:
    """One self-contained page about a built artifact; `exits` adds threshold, temperature and enabled to the manifest's."""
    full = manifest["exits"][-1]["macs"]
    rows = [{**known, **more, "share": known["macs"] / max(full, 1)} for known, more in zip(manifest["exits"], exits, strict=True)]
    before = 0.0
    for row in rows:
        row["from"], before = before, row["share"]
    checked = {e["name"]: e for e in (selftest or {}).get("exits", [])}
    sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    return _environment().get_template("artifact.html.jinja").render(
        m=manifest, exits=rows, full=full, device=device, checked=checked, sizes=sizes
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"
    return environment
