"""An artifact on disk: its manifest, checked files, and its executable as a function that returns JSON."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perse_compile import manifest
from perse_compile.devices import Device
from perse_compile.errors import ArtifactError, DeviceError
from perse_compile.program import InputSpec

Progress = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class Artifact:
    """An opened artifact; every file was checked when it was opened."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def input(self) -> InputSpec:
        fields = self.manifest["input"]
        return InputSpec(
            fields["height"], fields["width"], fields["channels"], tuple(fields["mean"]), tuple(fields["std"])
        )

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def spare_classes(self) -> int:
        """Outputs that the network had no class for."""
        return int(self.manifest["spare_classes"])

    @property
    def machine(self) -> str:
        return str(self.manifest["target"]["machine"])

    @property
    def emulator(self) -> str:
        return str(self.manifest["target"]["emulator"])

    # What a command does, as a method: see perse_compile/api.py and docs/python.md.

    def run(self, image: Any, **options: Any) -> Any:
        """`perse_compile.run` on it."""
        from perse_compile import api

        return api.run(self, image, **options)

    def evaluate(self, data: Any, **options: Any) -> Any:
        """`perse_compile.evaluate` on it."""
        from perse_compile import api

        return api.evaluate(self, data, **options)

    def personalise(self, data: Any, **options: Any) -> Any:
        """`perse_compile.personalise` on it."""
        from perse_compile import api

        return api.personalise(self, data, **options)

    def _repr_html_(self) -> str:
        from perse_compile.report.notebook import of_artifact

        return of_artifact(self)

    def call(self, device: Device, arguments: Sequence[str], progress: Progress | None = None) -> dict[str, Any]:
        """Run `perse ARGUMENTS --json` and give what it prints. Raises DeviceError with the executable's own line.

        On a device elsewhere the artifact must have been placed before (`perse_compile.personalise.placing`).
        """
        command = [f"{device.home(self.folder)}/perse", *arguments, "--json"]
        if progress is not None:
            command.append("--progress")
        complaints: list[str] = []
        with ExitStack() as stack:
            try:
                answer = stack.enter_context(tempfile.TemporaryFile("w+"))  # a file: a full pipe would stop the process
            except OSError as error:
                raise DeviceError(f"cannot make a temporary file: {error}; free some space or set TMPDIR") from error
            status = device.run(command, output=answer, follow=_follower(complaints, progress))
            answer.seek(0)
            output = answer.read()
        if status < 0:
            raise DeviceError(f"{self.folder / 'perse'} was stopped by signal {-status}; its heads are as they were")
        if status != 0 and not output.strip():
            raise DeviceError(complaints[-1] if complaints else f"{self.folder / 'perse'} failed with status {status}")
        try:
            result: dict[str, Any] = json.loads(output)
        except ValueError as error:
            raise DeviceError(f"{self.folder / 'perse'} did not print JSON; build the artifact again") from error
        return {**result, "exit_status": status}


def _follower(complaints: list[str], progress: Progress | None) -> Callable[[str], None]:
    def follow(line: str) -> None:
        match = re.fullmatch(r"progress (\S+) (\d+) (\d+)", line.strip())
        if match and progress is not None:
            progress(match[1], int(match[2]), int(match[3]))
        elif line.strip():
            complaints.append(line.strip())

    return follow


def open_artifact(folder: Path, *, check_pack: bool = True) -> Artifact:
    """Check everything in the folder, then use it. Raises ArtifactError."""
    fields = manifest.read_manifest(folder)
    for name, known in fields["files"].items():
        path = folder / name
        try:
            found = manifest.facts_of(path)
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}; build the artifact again") from error
        if found != {key: known[key] for key in found}:
            raise ArtifactError(f"{path} is damaged or not of this artifact; build the artifact again")
    pack = folder / manifest.PACK
    if check_pack and pack.exists():
        heads = manifest.read_pack(pack)
        if (heads.heads_id, heads.spare) != (fields["heads_id"], fields["spare_classes"]):
            raise ArtifactError(
                f"{pack} belongs to another artifact;"
                f" `perse-compile personalise {folder} --reset` brings back the factory heads"
            )
    return Artifact(folder, fields)
