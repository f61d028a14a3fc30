"""What becomes of people whose images or labels are not what personalising hopes for.

    python benchmarks/robustness.py ARTIFACT IMAGES.npz [--users 10] [--seeds 3] [--test 300] [--jobs 1] [--json FILE]

IMAGES.npz: labelled images that the network never saw. People are those of the `report` population; each is tried in
every trouble. An artifact's heads must never get worse than they were by more than half a point; with T test images the
comparison of two heads has a standard error of about sqrt(share of answers that differ / T), so that some people are
below that by chance: the table says how many are below it by more than two standard errors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from people import data_of, over_people, own_folder, personalise, right

from perse_compile.personalise.data import Images
from perse_compile.personalise.shifts import Shift
from perse_compile.personalise.users import POPULATIONS, Sizes, User, seen_by, simulate

TRAIN = 300
OTHER_CAMERA = Shift(contrast=1, rotation=0.7, noise=0.5)
THIRD_CAMERA = Shift(exposure=1, blur=0.8, noise=0.7)
SEVERE = (Shift(rotation=-1), Shift(noise=1), Shift(rotation=1), Shift(blur=1), Shift(rotation=0.8, noise=0.3))
SEVERITIES = (0.35, 0.5, 0.7, 0.9)
MOST_TESTS = 1500  # of people who are like the training images
HARM = -0.005

Trouble = Callable[[User, Images, np.random.Generator], tuple[Images, User]]  # what is learnt from, who is tested


def wrong_labels(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    """One label in five is another of the person's classes."""
    train = seen_by(user, images, "train")
    assert train.labels is not None
    labels = train.labels.copy()
    for at in random.permutation(len(labels))[: len(labels) // 5]:
        labels[at] = random.choice([label for label in user.classes if label != labels[at]])
    return replace(train, labels=labels), user


def random_labels(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    train = seen_by(user, images, "train")
    assert train.labels is not None
    return replace(train, labels=random.permutation(train.labels)), user


def five_samples(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    return seen_by(user, images, "train", samples=5), user


def five_labels(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    return seen_by(user, images, "train", labels=5 / TRAIN), user


def one_class(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    return _of_one_class(user, images, True)


def one_class_unlabelled(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    """Measured on that class, which is all that this person meets."""
    return _of_one_class(user, images, False)


def like_training(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    """A person with all classes and the camera of the training images."""
    return _generic(user, images, 1.0)


def like_training_unlabelled(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    return _generic(user, images, 0.0)


def two_cameras(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    """Every other training image came from another camera; the tests are all of the person's own."""
    return _mixed(user, images, 1.0, OTHER_CAMERA)


def two_cameras_unlabelled(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    return _mixed(user, images, 0.0, OTHER_CAMERA)


def another_second_camera_unlabelled(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    """Likewise, one that the network may understand."""
    return _mixed(user, images, 0.0, _severe(random))


def three_cameras_unlabelled(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    return _mixed(user, images, 0.0, OTHER_CAMERA, THIRD_CAMERA)


def severe_camera_unlabelled(user: User, images: Images, random: np.random.Generator) -> tuple[Images, User]:
    """One camera, but one that the network hardly understands."""
    severe = replace(user, shift=_severe(random))
    return seen_by(severe, images, "train", labels=0.0), severe


TROUBLES: tuple[Trouble, ...] = (
    wrong_labels, random_labels, five_samples, five_labels, one_class, one_class_unlabelled, like_training,
    like_training_unlabelled, two_cameras, two_cameras_unlabelled, another_second_camera_unlabelled,
    three_cameras_unlabelled, severe_camera_unlabelled,
)  # fmt: skip


def _severe(random: np.random.Generator) -> Shift:
    camera, severity = SEVERE[random.integers(len(SEVERE))], float(random.choice(SEVERITIES))
    return Shift(**{name: severity * full for name, full in camera})


def _of_one_class(user: User, images: Images, labelled: bool) -> tuple[Images, User]:
    assert images.labels is not None
    only = user.classes[0]
    splits = {name: places[images.labels[places] == only] for name, places in user.splits.items()}
    splits["test"] = np.setdiff1d(np.flatnonzero(images.labels == only), splits["train"])  # as many as there are
    alone = replace(user, splits=splits)
    return seen_by(alone, images, "train", labels=1.0 if labelled else 0.0), alone


def _generic(user: User, images: Images, labels: float) -> tuple[Images, User]:
    """Their own draws, but of all classes alike."""
    assert images.labels is not None
    places = np.random.default_rng(user.seed).permutation(len(images.labels))
    same = replace(user, shift=Shift(), splits={"train": places[:TRAIN], "test": places[TRAIN : TRAIN + MOST_TESTS]})
    return seen_by(same, images, "train", labels=labels), same


def _mixed(user: User, images: Images, labels: float, *others: Shift) -> tuple[Images, User]:
    """One training image from each camera in turn."""
    own = seen_by(user, images, "train", labels=labels)
    pixels, turns = own.pixels.copy(), 1 + len(others)
    for turn, camera in enumerate(others, 1):
        pixels[turn::turns] = seen_by(replace(user, shift=camera), images, "train").pixels[turn::turns]
    return replace(own, pixels=pixels), user


# --- one person -------------------------------------------------------------------------------------------


def live(artifact: Path, work: Path, data: Path, users: int, test: int, seed: int, number: int) -> list[dict[str, Any]]:
    """A row for every trouble of one person."""
    images = data_of(artifact, data)
    user = simulate(images, users, POPULATIONS["report"], seed=seed, sizes=Sizes(train=TRAIN, test=test))[number]
    rows = []
    for place, trouble in enumerate(TROUBLES):
        train, tested = trouble(user, images, np.random.default_rng([user.seed, place]))
        seen = seen_by(tested, images, "test")
        with tempfile.TemporaryDirectory() as folder:
            own = own_folder(artifact, folder)
            full, before, _ = right(work, own, seen)
            told = personalise(artifact, own, train, seed + 1)
            _, after, _ = right(work, own, seen)
        rows.append({
            "trouble": trouble.__name__.replace("_", " "), "seed": seed, "user": number, **told, "tests": len(seen),
            "full": float(full.mean()), "before": float(before.mean()), "after": float(after.mean()),
            "differ": float((after != before).mean()), "differ_full": float((after != full).mean()),
        })  # fmt: skip
    return rows


# --- all of them ------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    head = "| trouble | people | new heads | accuracy before | change: mean | worst | below -0.5 | surely so |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["trouble"] for row in rows):
        mine = [row for row in rows if row["trouble"] == name]
        change = np.array([row["after"] - row["before"] for row in mine])
        error = np.array([(row["differ"] / row["tests"]) ** 0.5 for row in mine])
        before = np.mean([row["before"] for row in mine])
        lines.append(
            f"| {name} | {len(mine)} | {np.mean([row['live'] for row in mine]):.0%} | {before:.1%} |"
            f" {100 * change.mean():+.1f} | {100 * change.min():+.1f} | {int((change < HARM - 1e-9).sum())} |"
            f" {int((change + 2 * error < HARM).sum())} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    over_people(live, __doc__, table, users=10, seeds=3, test=300)
