"""What each ingredient of personalising is worth: the same people with it and without.

    python benchmarks/ablation.py ARTIFACT IMAGES.npz [--users 10] [--seeds 5] [--test 600] [--jobs 1] [--json FILE]

IMAGES.npz: labelled images that the network never saw. People are those of the `development` population, on which
settings may be chosen. Points are those of the cascade over the full network as built; a difference to the first row is
given with its standard error over people.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from people import data_of, over_people, own_folder, personalise, right

from perse_compile.personalise.data import Images
from perse_compile.personalise.shifts import Shift
from perse_compile.personalise.users import POPULATIONS, Sizes, seen_by, simulate

TRAIN, SHARES = 300, (1.0, 0.1, 0.0)
SEVERE = 0.10
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "camera not corrected": ("--no-levels",),
    "answers not evened out": ("--neighbours", "0"),
    "no teacher where there is a label": ("--label-weight", "1"),
    "label and teacher alike": ("--label-weight", "0.5"),
    "not drawn towards the old head": ("--decay", "0"),
    "ten times more so": ("--decay", "0.003"),
    "teacher at temperature 1": ("--temperature", "1"),
    "teacher at temperature 4": ("--temperature", "4"),
    "100 epochs": ("--epochs", "100"),
    "6 folds": ("--folds", "6"),
    "early answers against the network as built": ("--against", "factory"),
    "mirrored images too": (),  # added to the images; no option of the artifact
}


def live(artifact: Path, work: Path, data: Path, users: int, test: int, seed: int, number: int) -> list[dict[str, Any]]:
    images = data_of(artifact, data)
    population = POPULATIONS["development"]
    user = simulate(images, users, population, seed=seed, sizes=Sizes(train=TRAIN, test=test))[number]
    seen, rows = seen_by(user, images, "test"), []
    with tempfile.TemporaryDirectory() as folder:
        own = own_folder(artifact, folder)
        clean, _, _ = right(work, own, seen_by(replace(user, shift=Shift()), images, "test"))
        full, early, faster = right(work, own, seen)
    severe = bool(clean.mean() - full.mean() > SEVERE)
    for share in SHARES:
        train = seen_by(user, images, "train", labels=share)
        for name, words in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                own = own_folder(artifact, folder)
                told = personalise(artifact, own, _mirrored(train) if "mirrored" in name else train, seed + 1, words)
                after, times = (early, faster) if not told["live"] else right(work, own, seen)[1:]
            gain = float(after.mean() - full.mean())
            rows.append({"seed": seed, "user": number, "severe": severe, "labels": share, "variant": name,
                         "gain": gain, "faster": times if gain >= 0 else 1.0, **told})  # fmt: skip
    return rows


def _mirrored(train: Images) -> Images:
    labels = None if train.labels is None else np.concatenate([train.labels, train.labels])
    return replace(train, pixels=np.concatenate([train.pixels, train.pixels[:, :, ::-1]]), labels=labels)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| labelled | | severe | mild | worst | against the first | times faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        first: Any = None
        for name in VARIANTS:
            mine = [row for row in rows if row["labels"] == share and row["variant"] == name]
            gains, severe = np.array([row["gain"] for row in mine]), np.array([row["severe"] for row in mine])
            first = gains if first is None else first
            apart = gains - first
            kinds = [f"{100 * gains[which].mean():+.1f}" if which.any() else "-" for which in (severe, ~severe)]
            error = apart.std() / len(apart) ** 0.5
            lines.append(
                f"| {share:.0%} | {name} | {kinds[0]} | {kinds[1]} | {100 * gains.min():+.1f} |"
                f" {100 * apart.mean():+.2f} ± {100 * error:.2f} | {np.mean([row['faster'] for row in mine]):.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    over_people(live, __doc__, table, users=10, seeds=5, test=600)
