"""What an artifact answers on images, at every exit: by a small program linked with the artifact's own library."""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.artifact import Artifact
from perse_compile.building.link import RUNTIME, compile_c, link_executable, zig
from perse_compile.devices import LocalDevice
from perse_compile.errors import DeviceError
from perse_compile.targets import Target

PROGRAM = Path(__file__).parent / "program"
LIBRARY = "libperse.a"


@dataclass(frozen=True)
class Observation:
    """N images, E exits."""

    truth: NDArray[np.int64]  # [N]
    taken: NDArray[np.int64]  # [N]: the exit that answered
    ms: NDArray[np.float64]  # [N]: until then
    full_ms: NDArray[np.float64]  # [N]: of the full network on the same image, right after
    labels: NDArray[np.int64]  # [N,E]
    confidence: NDArray[np.float64]  # [N,E]
    until: NDArray[np.float64]  # [N,E]: milliseconds until that exit's answer, all exits before it asked

    @property
    def answers(self) -> NDArray[np.int64]:
        """[N]: those of the exits that answered."""
        return np.asarray(self.labels[np.arange(len(self.taken)), self.taken], np.int64)


def link_programs(artifact: Artifact, work: Path) -> None:
    """Leave `watch` and `peak` in `work`, for the artifact's machine. Raises BuildError."""
    target = _target(artifact)
    for source in (
        *PROGRAM.glob("*.c"),
        *RUNTIME.glob("program/npy.[ch]"),
        *RUNTIME.glob("*.h"),
        artifact.folder / LIBRARY,
    ):
        shutil.copyfile(source, work / source.name)
    objects = compile_c(work, ["watch.c", "npy.c", "peak.c"], zig(target))
    link_executable(work, [*objects[:2], LIBRARY], "watch", target)
    link_executable(work, objects[2:], "peak", target)


def watch(
    program: Path, device: LocalDevice, heads: Path, pixels: NDArray[np.uint8], truth: NDArray[np.int64], threads: int
) -> Observation:
    """Of images [N,H,W,C], with the heads in a folder. Raises DeviceError."""
    complaints: list[str] = []
    with tempfile.TemporaryDirectory(prefix="perse-study-") as folder, tempfile.TemporaryFile("w+") as output:
        np.save(Path(folder) / "images.npy", pixels)
        command = [str(program), str(heads), f"{folder}/images.npy", str(threads)]
        status = device.run(command, output=output, follow=complaints.append)
        output.seek(0)
        text = output.read()
    if status != 0:
        raise DeviceError((complaints or [f"{program.name} failed with status {status}"])[-1])
    table = np.loadtxt(io.StringIO(text), ndmin=2)
    taken, labels = table[:, 0].astype(np.int64), table[:, 3::3].astype(np.int64)
    return Observation(truth, taken, table[:, 1], table[:, 2], labels, table[:, 4::3], table[:, 5::3])


def _target(artifact: Artifact) -> Target:
    known = {field.name for field in fields(Target)} - {"clusters"}
    told: dict[str, Any] = {name: value for name, value in artifact.manifest["target"].items() if name in known}
    return Target(**{**told, "mattr": tuple(told["mattr"])})
