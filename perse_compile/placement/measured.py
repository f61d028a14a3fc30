"""What an artifact of the same network takes on a device, stage by stage and head by head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perse_compile.errors import ArtifactError
from perse_compile.program import Program


@dataclass(frozen=True)
class MeasuredExit:
    """An exit of the artifact."""

    tap: str
    macs: int  # of the backbone up to the tap
    head_macs: int
    stage_ms: float
    head_ms: float


@dataclass(frozen=True)
class Measured:
    """What `perse bench` says, with what the manifest knows."""

    source: str
    input_ms: float
    exits: list[MeasuredExit]


def measured(folder: Path, manifest: dict[str, Any], bench: dict[str, Any], program: Program) -> Measured:
    """Raises ArtifactError if the artifact is of another network."""
    macs = {cut.node: cut.macs for cut in program.cuts}
    exits = manifest["exits"]
    strange = [exit["tap"] for exit in exits[:-1] if macs.get(exit["tap"]) != exit["macs"]]
    if strange or manifest["input"]["height"] != program.input.height or manifest["program"] != program.name:
        what = f"its tap {strange[0]} is not in {program.name}" if strange else f"it is {manifest['program']}'s"
        raise ArtifactError(f"{folder} is not an artifact of this network ({what}); --costs wants one that is")
    stages, heads = ([row["ms"] for row in bench[key]] for key in ("stages", "heads"))
    rows = [
        MeasuredExit(exit["tap"], exit["macs"], exit["head_macs"], stage, head)
        for exit, stage, head in zip(exits, stages, heads, strict=True)
    ]
    where = f"{bench['device']}, {bench['threads']} thread{'s' if bench['threads'] != 1 else ''}"
    return Measured(f"milliseconds of {folder.name} on {where}", bench["input_ms"], rows)
