"""The bundled data is what examples/README.md says it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perse_compile.personalise.data import read_images
from perse_compile.program import InputSpec

EXAMPLES = Path(__file__).parent.parent / "examples"
FACTS = json.loads((EXAMPLES / "fashion_mnist_shufflenet.json").read_text())
SPEC = InputSpec(28, 28, 1, (0.5,), (0.5,))
USERS = {
    "anna": ("t-shirt", "trouser", "sneaker", "bag"),
    "ben": ("pullover", "coat", "shirt", "dress", "bag"),
    "carla": ("t-shirt", "dress", "shirt", "sandal"),
    "dmitri": ("sandal", "sneaker", "ankle boot", "bag", "trouser"),
    "eve": ("t-shirt", "pullover", "sneaker", "ankle boot"),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("part", "count"), [("train", 240), ("test", 150)])
def test_a_user_has_every_class_about_equally(user: str, part: str, count: int) -> None:
    images = read_images(EXAMPLES / "users" / f"{user}-{part}.npz", SPEC, FACTS["classes"])
    assert len(images) == count and images.labels is not None
    labels = images.labels
    counts = {name: int((labels == index).sum()) for index, name in enumerate(FACTS["classes"]) if index in labels}
    assert set(counts) == set(USERS[user])
    fair = count / len(counts)
    assert all(0.6 * fair < found < 1.4 * fair for found in counts.values()), counts


def test_no_image_twice() -> None:
    """Within a user; between users the shifts differ, so that one image is no longer the same bytes."""
    for user in USERS:
        parts = [np.load(EXAMPLES / "users" / f"{user}-{part}.npz")["images"] for part in ("train", "test")]
        assert len({image.tobytes() for part in parts for image in part}) == 390


def test_the_images_for_the_exits() -> None:
    images = read_images(EXAMPLES / "fashion_mnist_train.npz", SPEC, FACTS["classes"])
    assert images.labels is not None and np.bincount(images.labels).tolist() == [300] * 10


def test_the_images_for_studies() -> None:
    images = read_images(EXAMPLES / "fashion_mnist_study.npz", SPEC, FACTS["classes"])
    assert images.labels is not None and np.bincount(images.labels).tolist() == [400] * 10
    raw = {name: np.load(EXAMPLES / f"fashion_mnist_{name}.npz")["images"] for name in ("study", "train")}
    seen = {image.tobytes() for image in raw["train"]}
    assert not any(image.tobytes() in seen for image in raw["study"])


def test_sizes_and_accuracy() -> None:
    assert (EXAMPLES / "fashion_mnist_shufflenet.safetensors").stat().st_size <= 6e6
    assert sum(path.stat().st_size for path in (EXAMPLES / "users").iterdir()) <= 4e6
    assert all((EXAMPLES / f"fashion_mnist_{name}.npz").stat().st_size <= 2.5e6 for name in ("train", "study"))
    assert (
        FACTS["test_accuracy"] >= 0.9 and FACTS["test_images"] == 10000 and FACTS["epochs"] == FACTS["epochs_planned"]
    )
