"""Every figure that `show` has: of a program, or of an artifact and what was measured of it. Plain data, for JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perse_compile import __version__
from perse_compile.artifact import Artifact
from perse_compile.errors import ArtifactError
from perse_compile.macs import head_macs, head_parameters
from perse_compile.manifest import BACKBONE, MANIFEST, PACK, read_pack
from perse_compile.passes.head_types import head_facts
from perse_compile.program import Exit, Program
from perse_compile.report import records
from perse_compile.report.curve import curve_of
from perse_compile.report.layers import layers
from perse_compile.report.layers_file import read_layers

Figures = dict[str, Any]


def program_figures(program: Program, path: Path | None = None) -> Figures:
    """Of a program, and of the file it is in."""
    full = program.exits[-1].macs if program.exits else 0
    exits = [
        {
            "name": e.name, "tap": e.tap, "grid": e.grid, "features": e.features, "macs": e.macs,
            "share": _share(e.macs, full), "head_macs": head_macs(program, e.name),
            "head_parameters": head_parameters(program, e),
            **head_facts(e, program.outputs),
            "enabled": e.enabled, "threshold": e.threshold, "temperature": e.temperature,
        }
        for e in program.exits
    ]  # fmt: skip
    heads = tuple(f"{exit.name}." for exit in program.exits)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in program.tensors().items()}
    of_heads = sum(size for name, size in sizes.items() if name.startswith(heads))
    memory = [
        _part("weights", sum(sizes.values()) - of_heads, "of the network; they stay as they are"),
        _part("heads", of_heads, "of all exits; what personalising changes"),
    ]
    found = _common("program", program.name, program.input.__dict__, program.classes, exits, layers(program))
    found |= {
        "path": None if path is None else str(path),
        "memory": memory,
        "files": [] if path is None else [_file(path)],
        "spare_classes": program.spare, "new_classes": [],
        "target": None, "tuning": None, "verified": None, "heads": None,
        "time": None, "personalised": None, "evaluated": None, "study": None,
    }  # fmt: skip
    return _finished(found, program.provenance, program.levels, [])


def artifact_figures(artifact: Artifact) -> Figures:
    """Of an artifact with its own heads as they are now."""
    fields, folder = artifact.manifest, artifact.folder
    measured, warnings = _measured(folder)
    pack = read_pack(folder / PACK) if (folder / PACK).exists() else None
    full = fields["exits"][-1]["macs"]
    selftest = (measured.get("build") or {}).get("selftest") or {}
    checked = {row["name"]: row for row in selftest.get("exits", [])}
    bench = measured.get("bench")
    exits = []
    for number, known in enumerate(fields["exits"]):
        row = {**known, "share": _share(known["macs"], full)}
        outputs = len(fields["classes"]) + fields["spare_classes"]
        row["head_parameters"] = (known["features"] + 1) * outputs
        exit = Exit(**{name: known[name] for name in ("name", "tap", "grid", "features", "macs", "projected")})
        row |= head_facts(exit, outputs)
        live = pack.exits[number] if pack else None
        row |= {name: getattr(live, name, None) for name in ("enabled", "threshold", "temperature")}
        row["difference"] = checked[known["name"]]["max_rel_diff"] if known["name"] in checked else None
        if bench:
            row |= {name: bench["exits"][number][name] for name in ("ms", "low", "high")}
            row["head_ms"] = bench["heads"][number]["ms"]
        exits.append(row)
    found = _common("artifact", fields["program"], fields["input"], fields["classes"], exits, read_layers(folder))
    if bench:
        total = sum(stage["ms"] for stage in bench["stages"])
        for stage, timed in zip(found["stages"], bench["stages"], strict=True):
            stage |= {"ms": timed["ms"], "time_share": timed["ms"] / total}
    files = [{"name": MANIFEST, **_size(folder / MANIFEST)}]
    files += [{"name": name, **entry} for name, entry in fields["files"].items()]
    files += [{"name": PACK, **_size(folder / PACK)}] if pack else []
    files += [_file(folder / records.MEASURED)] if (folder / records.MEASURED).exists() else []
    sizes = {entry["name"]: entry["bytes"] for entry in files}
    new = list(pack.new_classes) if pack else []
    at_work = (measured.get("build") or {}).get("memory_bytes")
    found |= {
        "path": str(folder),
        "memory": [
            _part("weights", sizes[BACKBONE], "backbone.bin, mapped read-only: pages are read when they are needed"),
            _part("arena", fields["arena_bytes"], "what lies between layers while an image is answered"),
            _part("heads", sizes.get(PACK), "heads.pack"),
            _part("at work", at_work, "what the runtime takes of its caller: arena, heads in use and in training"),
            _part("executable", sizes["perse"], "perse, with all its code"),
        ],
        "files": files,
        "spare_classes": fields["spare_classes"] - len(new), "new_classes": new,
        "target": {name: fields["target"][name] for name in ("name", "description", "machine")},
        "tuning": {**fields["tuning"], "words": tuning_words(fields["tuning"])},
        "verified": {"device": (measured.get("build") or {}).get("device"), "greatest": max(
            (row["max_rel_diff"] for row in checked.values()), default=None)} if checked else None,
        "heads": None if pack is None else {"generation": pack.generation, "crc32": records.crc_of(folder / PACK)},
        "heads_id": fields["heads_id"],
        "kernels": fields["kernels"],
        "time": bench and {n: bench[n] for n in ("when", "device", "threads", "runs", "full_ms", "input_ms")},
        "personalised": _of_heads(measured.get("personalise"), folder),
        "evaluated": _of_heads(measured.get("evaluate"), folder),
        "study": _of_heads(measured.get("study"), folder),
    }  # fmt: skip
    return _finished(found, fields["provenance"], fields["levels"], warnings, fields["versions"])


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


def _common(kind: str, name: str, spec: dict[str, Any], classes: list[str], exits: list[Any], found: Any) -> Figures:
    full = exits[-1]["macs"] if exits else 0
    stages, before = [], 0
    for exit in exits:
        macs, before = exit["macs"] - before, exit["macs"]
        count = None if found is None else sum(layer["stage"] == exit["name"] for layer in found)
        stages.append({"name": exit["name"], "macs": macs, "share": _share(macs, full), "layers": count})
    if found is not None:
        found = [{**layer, "share": _share(layer["macs"], full)} for layer in found]
    return {
        "kind": kind, "name": name, "input": {name: spec[name] for name in ("height", "width", "channels")},
        "classes": len(classes), "macs": full, "stages": stages, "exits": exits,
        "layer_count": None if found is None else len(found), "layers": found,
    }  # fmt: skip


def _finished(
    found: Figures, provenance: dict[str, Any], levels: Any, warnings: list[str], built_with: Any = None
) -> Figures:
    weights = provenance.get("weights") or {}
    found |= {
        "levels": levels,
        "trained": provenance.get("train_exits"),
        "place": provenance.get("place"),
        "model": provenance.get("model"),
        "weights": {name: value for name, value in weights.items() if isinstance(value, str | int)},
        "versions": {**(provenance.get("versions") or {}), **(built_with or {})},
        "warnings": [*provenance.get("warnings", []), *warnings],
        "made": {"when": records.now(), "by": __version__},
    }
    return {**found, "curve": curve_of(found)}


def _measured(folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    try:
        return records.read(folder), []
    except ArtifactError as error:
        return {}, [str(error)]


def _of_heads(record: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """With whether the heads it is of are still those of the artifact."""
    return record and {**record, "in_use": record["heads_crc32"] == records.crc_of(folder / PACK)}


def _share(macs: int, full: int) -> float:
    return macs / full if full else 1.0


def _part(name: str, size: int | None, what: str) -> dict[str, Any]:
    return {"name": name, "bytes": size, "what": what}


def _size(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "crc32": records.crc_of(path)}


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name, **_size(path)}
