"""What learning takes, in seconds and bytes: on the artifact, and in PyTorch on the same machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from perse_compile.artifact import Artifact
from perse_compile.devices import LocalDevice
from perse_compile.errors import DeviceError
from perse_compile.personalise.data import UNKNOWN, Images
from perse_compile.study.plan import EPOCHS, Trial


def on_device(artifact: Artifact, peak: Path, own: Path, train: Images, threads: int) -> dict[str, Any]:
    """`EPOCHS` epochs of personalising, and inference on the same images. `own`: where the heads go."""
    with tempfile.TemporaryDirectory(prefix="perse-study-") as folder:
        images, labels = f"{folder}/images.npy", f"{folder}/labels.npy"
        np.save(images, train.pixels)
        np.save(labels, train.labels if train.labels is not None else np.full(len(train), UNKNOWN, np.int64))
        common = [images, "--labels", labels, "--artifact", str(own), "--threads", str(threads), "--json"]
        _, inference = _measured(artifact, peak, ["evaluate", *common])
        length = ["--epochs", str(EPOCHS)]
        told, training = _measured(artifact, peak, ["personalise", *common, *length])
    return {"seconds": told["seconds"], "peak_bytes": training, "inference_peak_bytes": inference}


def in_torch(program: Path, trial: Trial, train: Images, test: Images, threads: int, work: Path) -> dict[str, Any]:
    """What `perse_compile.study.finetune` prints. Raises DeviceError when it fails."""
    assert train.labels is not None and test.labels is not None  # without labels it is not asked
    known, truth = train.labels, test.labels
    np.savez(work / "data.npz", train=train.pixels, train_labels=known, test=test.pixels, test_labels=truth)
    module = [sys.executable, "-m", "perse_compile.study.finetune"]
    numbers = [str(EPOCHS), str(threads), str(trial.seed)]
    result = subprocess.run(
        [*module, str(program), str(work / "data.npz"), trial.kind, *numbers],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise DeviceError(f"the baseline {trial.kind} failed in PyTorch: {last}; leave it out with --baselines")
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def _measured(artifact: Artifact, peak: Path, arguments: list[str]) -> tuple[dict[str, Any], int]:
    """What the artifact's executable prints, and the most memory it held, in bytes."""
    lines: list[str] = []
    device = LocalDevice(prefix=(str(peak),))
    with tempfile.TemporaryFile("w+") as output:
        status = device.run([f"{device.home(artifact.folder)}/perse", *arguments], output=output, follow=lines.append)
        output.seek(0)
        text = output.read()
    found = [line for line in lines if line.startswith("peak ")]
    if status != 0 or not found:
        raise DeviceError(lines[0] if lines else f"{artifact.folder / 'perse'} failed with status {status}")
    return json.loads(text), int(found[-1].split()[1])
