"""Make the bundled data: real Fashion-MNIST images for `train-exits`, and for five simulated users.

python examples/make_users.py

Writes fashion_mnist_train.npz (3,000 training images that the backbone never saw),
users/<name>-train.npz, users/<name>-test.npz (from the 10,000 test images, which the backbone never saw either; no
image belongs to two users, or to the train and the test file of one) and fashion_mnist_study.npz (4,000 test images
that none of these users has, for `study`). Everything follows from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import fashion_mnist
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

HERE = Path(__file__).parent
TRAIN_IMAGES, TEST_IMAGES = 240, 150  # per user
STUDY_IMAGES = 400  # per class
JITTER = 0.15  # how much a shift differs from image to image


@dataclass(frozen=True)
class Shift:
    """How one user's camera differs from the one the backbone learned from. The defaults change nothing."""

    blur: float = 0.0  # radius in pixels
    contrast: float = 1.0  # factor around middle gray
    exposure: float = 1.0  # factor
    rotation: float = 0.0  # degrees, counter-clockwise
    noise: float = 0.0  # standard deviation in gray levels


@dataclass(frozen=True)
class User:
    name: str
    classes: tuple[str, ...]
    shift: Shift


USERS = (
    User("anna", ("t-shirt", "trouser", "sneaker", "bag"), Shift(exposure=0.9)),
    User("ben", ("pullover", "coat", "shirt", "dress", "bag"), Shift(blur=1.0)),
    User("carla", ("t-shirt", "dress", "shirt", "sandal"), Shift(contrast=0.9, exposure=0.6)),
    User("dmitri", ("sandal", "sneaker", "ankle boot", "bag", "trouser"), Shift(rotation=25.0)),
    User("eve", ("t-shirt", "pullover", "sneaker", "ankle boot"), Shift(noise=12.0)),
)


def shift_image(image: NDArray[np.uint8], shift: Shift, generator: np.random.Generator) -> NDArray[np.uint8]:
    """One image, [H,W] or [H,W,3], under a shift; how much varies a little from image to image."""

    def varied(amount: float) -> float:
        return amount * (1 + JITTER * float(generator.uniform(-1, 1)))

    picture = Image.fromarray(image)
    if shift.rotation:
        picture = picture.rotate(varied(shift.rotation), Image.Resampling.BILINEAR)
    if shift.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(varied(shift.blur)))
    pixels = np.asarray(picture, np.float64)
    if shift.exposure != 1.0:
        pixels = pixels * varied(shift.exposure)
    if shift.contrast != 1.0:
        pixels = (pixels - 127.5) * varied(shift.contrast) + 127.5
    if shift.noise:
        pixels = pixels + generator.normal(0, varied(shift.noise), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def save(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    np.savez_compressed(path, images=images, labels=labels, class_names=np.array(fashion_mnist.CLASSES))
    print(f"{path.relative_to(HERE)}: {len(images)} images, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    images, labels = fashion_mnist.read("train")
    _, exits = fashion_mnist.split_training(labels)
    save(HERE / "fashion_mnist_train.npz", images[exits], labels[exits])

    images, labels = fashion_mnist.read("t10k")
    generator = np.random.default_rng(fashion_mnist.SEED)
    free = np.ones(len(images), bool)
    (HERE / "users").mkdir(exist_ok=True)
    for user in USERS:
        wanted = [fashion_mnist.CLASSES.index(name) for name in user.classes]
        # drawn afresh: the head of one shuffled list would lack the classes that earlier users have taken from it
        mine = generator.permutation(np.flatnonzero(free & np.isin(labels, wanted)))[: TRAIN_IMAGES + TEST_IMAGES]
        free[mine] = False
        seen = np.stack([shift_image(images[index], user.shift, generator) for index in mine])
        save(HERE / "users" / f"{user.name}-train.npz", seen[:TRAIN_IMAGES], labels[mine[:TRAIN_IMAGES]])
        save(HERE / "users" / f"{user.name}-test.npz", seen[TRAIN_IMAGES:], labels[mine[TRAIN_IMAGES:]])

    left = [np.flatnonzero(free & (labels == label)) for label in range(len(fashion_mnist.CLASSES))]
    study = np.sort(np.concatenate([generator.choice(mine, STUDY_IMAGES, replace=False) for mine in left]))
    save(HERE / "fashion_mnist_study.npz", images[study], labels[study])


if __name__ == "__main__":
    main()
