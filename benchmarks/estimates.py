"""What personalising was estimated to take, and what it took.

    python benchmarks/estimates.py [MODEL ...] [--images N ...] [--rounds N] [--json]

A MODEL is a torchvision name (random weights, generated images with random labels) or an artifact's folder. Every round
resets the heads and personalises once; the estimate is the one that `perse personalise` makes before it trains.
  expected, most   seconds that it said: to expect, and with the features of a corrected camera (with labels)
  took             seconds of the features and the fit
  core             processor seconds of the same: what it takes when nothing else runs here; one thread
  off              expected / core - 1; the bound is 25 % for the median over the rounds
  memory           megabytes that it said, and the greatest resident set of the process
Exit status 1 when the bound is broken, or a fit took more than it should at most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from perse_compile import driver, targets
from perse_compile.artifact import Artifact, open_artifact
from perse_compile.building.build import build

BOUND = 0.25


def artifact_of(model: str, work: Path) -> Artifact:
    if Path(model).is_dir():
        return open_artifact(Path(model), check_pack=False)
    return build(driver.insert_exits(model, weights="none"), targets.load("native"), work / model).artifact


def data_for(artifact: Artifact, count: int, work: Path) -> list[str]:
    """Images that have something to do with their labels, so that training goes on for a while."""
    spec, rng = artifact.input, np.random.default_rng(count)
    labels = rng.integers(0, min(8, len(artifact.classes)), count)
    prototypes = rng.integers(0, 256, (8, 7, 7, spec.channels))
    rows, columns = np.arange(spec.height) * 7 // spec.height, np.arange(spec.width) * 7 // spec.width
    pixels = prototypes[labels][:, rows][:, :, columns] + rng.normal(
        0, 40, (count, spec.height, spec.width, spec.channels)
    )
    np.save(work / "images.npy", pixels.clip(0, 255).astype(np.uint8))
    np.save(work / "labels.npy", labels.astype(np.int32))
    return [str(work / "images.npy"), "--labels", str(work / "labels.npy")]


def run(words: list[str]) -> tuple[dict[str, Any], float, int]:
    """What it printed, processor seconds, and bytes of its greatest resident set."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(words, stdout=out)
        status, resident = Path(f"/proc/{process.pid}/status"), 0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak = re.search(r"VmHWM:\s*(\d+)", status.read_text())
            resident = max(resident, 1024 * int(peak[1]) if peak else 0)
            time.sleep(0.005)
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = code
        assert code == 0, words
        out.seek(0)
        return json.load(out), used.ru_utime + used.ru_stime, resident


def once(artifact: Artifact, data: list[str], seed: int) -> dict[str, Any]:
    perse, images = str(artifact.folder / "perse"), str(len(np.load(data[-1])))
    run([perse, "reset", "--json"])
    _, probe, _ = run([perse, "estimate", "--images", images, "--json"])  # opening the files, and the probe
    found, core, resident = run([perse, "personalise", *data, "--seed", str(seed), "--json"])
    epochs = [e["epochs"] for e in found["exits"]]
    return {
        "said": found["estimate"],
        "took": found["seconds"],
        "core": core - probe,
        "resident": resident,
        "epochs": epochs,
    }


def measure(artifact: Artifact, count: int, rounds: int, work: Path) -> dict[str, Any]:
    data = data_for(artifact, count, work)
    runs = [once(artifact, data, seed) for seed in range(rounds)]
    return {
        "model": artifact.folder.name,
        "images": count,
        "expected": float(np.median([r["said"]["seconds"] for r in runs])),
        "most": float(np.median([r["said"]["seconds_at_most"] for r in runs])),
        "took": float(np.median([r["took"] for r in runs])),
        "core": float(np.median([r["core"] for r in runs])),
        "off": float(np.median([r["said"]["core_seconds"] / r["core"] - 1 for r in runs])),
        "beyond": sum(r["core"] > (1 + BOUND) * r["said"]["core_seconds_at_most"] for r in runs),
        "memory": runs[0]["said"]["memory_bytes"],
        "resident": max(r["resident"] for r in runs),
        "epochs": float(np.mean([r["epochs"] for r in runs])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--images", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            artifact = artifact_of(model, Path(folder))
            results += [measure(artifact, count, options.rounds, Path(folder)) for count in options.images]
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(
            "| network | images | expected s | most s | took s | core s | off | memory MB | resident MB | epochs |\n"
            + "|---" * 10
            + "|"
        )
        for r in results:
            times = (
                f"{r['expected']:.2f} | {r['most']:.2f} | {r['took']:.2f} | {r['core']:.2f} | {100 * r['off']:+.0f} %"
            )
            sizes = f"{r['memory'] / 1e6:.0f} | {r['resident'] / 1e6:.0f} | {r['epochs']:.0f}"
            print(f"| {r['model']} | {r['images']} | {times} | {sizes} |")
    faults = [f"{r['model']}, {r['images']} images: {100 * r['off']:+.0f} %" for r in results if abs(r["off"]) > BOUND]
    faults += [f"{r['model']}, {r['images']} images: beyond the most" for r in results if r["beyond"]]
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
