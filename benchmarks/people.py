"""Simulated people and an artifact's executable, for the benchmarks that try many of both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.artifact import open_artifact
from perse_compile.devices import LocalDevice
from perse_compile.manifest import BACKBONE
from perse_compile.personalise.data import Images, read_images
from perse_compile.study.watch import watch


@cache
def data_of(artifact: Path, data: Path) -> Images:
    opened = open_artifact(artifact)
    return read_images(data, opened.input, opened.classes, None)


def own_folder(artifact: Path, folder: str) -> Path:
    """A folder for somebody's heads: the backbone is only linked to."""
    (Path(folder) / BACKBONE).symlink_to((artifact / BACKBONE).resolve())
    return Path(folder)


def right(work: Path, own: Path, seen: Images) -> tuple[NDArray[np.bool_], NDArray[np.bool_], float]:
    """Which images the full network, and the exits, answer rightly; and how many times faster the exits are."""
    assert seen.labels is not None
    found = watch(work / "watch", LocalDevice(), own, seen.pixels, seen.labels, 1)
    faster = float(np.median(found.full_ms) / np.mean(np.median(found.until, 0)[found.taken]))
    return found.labels[:, -1] == found.truth, found.answers == found.truth, faster


def personalise(artifact: Path, own: Path, train: Images, seed: int, words: Sequence[str] = ()) -> dict[str, Any]:
    """What `perse personalise --json` says, or why it refused."""
    np.save(own / "x.npy", train.pixels)
    command = [str(artifact / "perse"), "personalise", str(own / "x.npy"), "--artifact", str(own), "--json"]
    if train.labels is not None:
        np.save(own / "y.npy", train.labels)
        command += ["--labels", str(own / "y.npy")]
    ran = subprocess.run([*command, "--seed", str(seed), *words], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        return {"live": False, "verdict": ran.stderr.strip(), "seconds": 0.0}
    return {name: value for name, value in json.loads(ran.stdout).items() if name in ("live", "verdict", "seconds")}
