"""Simulated people and an artifact's executable, for the benchmarks that try many of both."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.artifact import open_artifact
from perse_compile.devices import LocalDevice
from perse_compile.manifest import BACKBONE
from perse_compile.personalise.data import Images, read_images
from perse_compile.study.watch import link_programs, watch


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


# live(artifact, work, data, users, test, seed, number): the rows of one person
Live = Callable[[Path, Path, Path, int, int, int, int], list[dict[str, Any]]]


def over_people(live: Live, about: str | None, table: Callable[[list[dict[str, Any]]], str], **defaults: int) -> None:
    """The command line of a benchmark, its people side by side, and its table."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("data", type=Path)
    for name, value in {**defaults, "jobs": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        link_programs(open_artifact(given.artifact), Path(folder))
        common = given.artifact, Path(folder), given.data, given.users, given.test
        people = [(seed, number) for seed in range(given.seeds) for number in range(given.users)]
        rows = []
        with ProcessPoolExecutor(given.jobs) as pool:
            for done, future in enumerate([pool.submit(live, *common, *person) for person in people], 1):
                rows += future.result()
                print(f"{done} of {len(people)} people", end="\r", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows))
    print(table(rows))
