"""A study from an artifact and images to a folder of results."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from perse_compile.artifact import Artifact, open_artifact
from perse_compile.devices import runs_here
from perse_compile.devices.files import written_atomically
from perse_compile.errors import DataError, DeviceError, PerseError
from perse_compile.manifest import heads_id
from perse_compile.personalise.data import Images, read_images
from perse_compile.program import Program
from perse_compile.study.page import study_page
from perse_compile.study.plan import TORCH, Plan
from perse_compile.study.records import Records
from perse_compile.study.replay import Replay, Tell
from perse_compile.study.summary import summarise

RECORDS, SUMMARY, PAGE = "study.jsonl", "study.json", "study.html"


def run(folder: Path, data: Path, plan: Plan, output: Path, program: Path | None, tell: Tell) -> dict[str, Any]:
    """Replay what is not yet in `output`, and write and give the summary. Ctrl-C ends it early.

    Raises ArtifactError, DataError, DeviceError, BuildError, ProgramError.
    """
    artifact = open_artifact(folder, check_pack=False)
    if not runs_here(artifact.machine):
        raise DeviceError(
            f"{folder} is for {artifact.machine}, and a study measures time: build one with --target native, for here"
        )
    torch = plan.baseline_users > 0 and any(name in TORCH for name in plan.baselines)
    source = _program_of(artifact, program) if torch else None
    spec, classes = artifact.input, artifact.classes
    images = read_images(data, spec, classes, lambda done, total: tell("reading images", done, total))
    records = Records(output / RECORDS, {**_identity(artifact, images), **plan.identity()})
    finished = Replay(artifact, source, images, plan, records).run(tell)
    found = {
        "artifact": artifact.folder.name,
        "data": images.name,
        "population": plan.population,
        "exits": [exit["name"] for exit in artifact.manifest["exits"]],
        "folder": str(output),
        "interrupted": not finished,
        **summarise(records, plan),
    }
    _write(output / SUMMARY, json.dumps(found, indent=2) + "\n")
    _write(output / PAGE, study_page(found))
    return found


def _identity(artifact: Artifact, images: Images) -> dict[str, Any]:
    """Of the network, the code that runs it, and the images."""
    labels = b"" if images.labels is None else images.labels.tobytes()
    return {
        "backbone": artifact.manifest["files"]["backbone.bin"]["crc32"],
        "perse": artifact.manifest["files"]["perse"]["crc32"],
        "images": zlib.crc32(labels, zlib.crc32(images.pixels.tobytes())),
    }


def _program_of(artifact: Artifact, given: Path | None) -> Path:
    """The .perse file that the artifact was built from. Raises DataError."""
    name, identity = f"{artifact.manifest['program']}.perse", artifact.manifest["heads_id"]
    for path in [given] if given else [artifact.folder.resolve().parent / name, Path(name)]:
        try:
            if heads_id(Program.load(path)) == identity:
                return path
        except PerseError:
            if given:
                raise
    if given:
        raise DataError(f"{given} is not what {artifact.folder} was built from; give that program, or --baselines hard")
    raise DataError(
        f"{name}, which {artifact.folder} was built from, is not found; baselines in PyTorch need it:"
        " give --program, or leave them out with --baselines hard"
    )


def _write(path: Path, text: str) -> None:
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
