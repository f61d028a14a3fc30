"""report.html: what a person would rather look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from perse_compile.artifact import Artifact
from perse_compile.manifest import PACK, read_pack

FOLDER = Path(__file__).parent


def artifact_page(artifact: Artifact, device: str | None, selftest: dict[str, Any] | None) -> str:
    """One self-contained page about a built artifact and, if it could run anywhere here, how its self-test went."""
    fields, pack = artifact.manifest, read_pack(artifact.folder / PACK)
    full = fields["exits"][-1]["macs"]
    rows, before = [], 0.0
    for known, packed in zip(fields["exits"], pack.exits, strict=True):
        share = known["macs"] / max(full, 1)
        live = {"enabled": packed.enabled, "threshold": packed.threshold, "temperature": packed.temperature}
        rows.append({**known, **live, "share": share, "from": before})
        before = share
    checked = {exit["name"]: exit for exit in (selftest or {}).get("exits", [])}
    sizes = {name: entry["bytes"] for name, entry in fields["files"].items()}
    sizes[PACK] = (artifact.folder / PACK).stat().st_size
    trained = fields["provenance"].get("train_exits")
    template = _environment().get_template("artifact.html.jinja")
    return template.render(
        m=fields,
        exits=rows,
        full=full,
        device=device,
        checked=checked,
        sizes=sizes,
        trained=trained,
        tuning=tuning_words(fields["tuning"]),
    )


def tuning_words(tuning: dict[str, Any]) -> str:
    """Where the knobs of the kernels come from."""
    where = f" ({', '.join(tuning['where'])})" if tuning["where"] else ""
    measured, modelled, default = (tuning[how] for how in ("measured", "modelled", "default"))
    counted = [
        f"{measured} measured" if measured else "",
        f"{modelled} modelled, not measured" if modelled else "",
        f"{default} by default, not tuned" if default else "",
    ]
    return f"knobs of {measured + modelled + default} workloads: {', '.join(filter(None, counted))}{where}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"
    environment.filters["macs"] = lambda macs: f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
    return environment
