"""How one person's camera and surroundings differ from what a network learnt from, image by image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from perse_compile.errors import DataError

Pixels = NDArray[np.uint8]

JITTER = 0.15  # how much a shift differs from image to image
SIGNED = ("exposure", "contrast", "rotation", "colour")
# what a severity of 1 means
BLUR = 0.08  # radius, as a share of the shorter side
STOPS = 2.0  # of exposure
CONTRAST = 0.8  # of the distance to middle gray: lost, or with a negative severity gained
DEGREES = 60.0  # clockwise
CAST = 0.5  # red gains this share, blue loses it
COARSE = 0.85  # share of each side's pixels that are lost
NOISE = 64.0  # standard deviation in gray levels
QUALITY = 92  # of JPEG, from 95 down


@dataclass(frozen=True)
class Shift:
    """Severities, 0 (nothing) to 1; those of `SIGNED` go to -1, the other way. All of them act, in this order."""

    rotation: float = 0.0  # clockwise
    downscale: float = 0.0  # to fewer pixels and back
    blur: float = 0.0  # Gaussian
    exposure: float = 0.0  # brighter
    colour: float = 0.0  # warmer: red up, blue down
    contrast: float = 0.0  # flatter
    noise: float = 0.0  # Gaussian
    jpeg: float = 0.0  # compressed

    def __post_init__(self) -> None:
        for name, severity in self:
            low = -1.0 if name in SIGNED else 0.0
            if not low <= severity <= 1:
                raise DataError(f"a severity of {severity:g} for {name}: give one between {low:g} and 1")

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return ((field.name, float(getattr(self, field.name))) for field in fields(self))

    def __str__(self) -> str:
        """Such as "rotation 0.30, noise 0.20"."""
        acting = (f"{name} {severity:.2f}" for name, severity in self if severity)
        return ", ".join(acting) or "no shift"


def shifted(image: Pixels, shift: Shift, generator: np.random.Generator) -> Pixels:
    """One image [H,W,C] as this camera sees it; how much varies by up to 15 % from image to image.

    Raises DataError for a colour cast on images of one channel.
    """
    if shift.colour and image.shape[2] == 1:
        raise DataError("a colour cast needs images of three channels; leave `colour` at 0")
    amount = {name: severity * (1 + JITTER * float(generator.uniform(-1, 1))) for name, severity in shift}
    image = _through_lens(image, amount)
    image = _as_light(image, amount, generator)
    return _compressed(image, amount["jpeg"])


def _through_lens(image: Pixels, amount: dict[str, float]) -> Pixels:
    height, width, _ = image.shape
    if amount["rotation"]:
        margin = max(height, width) // 2  # corners show what the border had
        wide = _picture(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
        turned = wide.rotate(-DEGREES * amount["rotation"], Image.Resampling.BILINEAR)
        image = _pixels(turned, image)[margin : margin + height, margin : margin + width]
    picture = _picture(image)
    if amount["downscale"]:
        left = 1 - COARSE * min(amount["downscale"], 1)
        small = picture.resize((max(1, round(width * left)), max(1, round(height * left))), Image.Resampling.BOX)
        picture = small.resize((width, height), Image.Resampling.BILINEAR)
    if amount["blur"]:
        picture = picture.filter(ImageFilter.GaussianBlur(BLUR * min(height, width) * amount["blur"]))
    return _pixels(picture, image)


def _as_light(image: Pixels, amount: dict[str, float], generator: np.random.Generator) -> Pixels:
    light = image.astype(np.float64)
    if amount["exposure"]:
        light *= 2.0 ** (STOPS * amount["exposure"])
    if amount["colour"]:
        light *= 1 + CAST * amount["colour"] * np.array([1.0, 0.0, -1.0])
    light = np.clip(light, 0, 255)  # a sensor is full
    if amount["contrast"]:
        light = (light - 127.5) * (1 - CONTRAST * amount["contrast"]) + 127.5
    if amount["noise"]:
        light += generator.normal(0, NOISE * amount["noise"], light.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _compressed(image: Pixels, amount: float) -> Pixels:
    if not amount:
        return image
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=max(1, round(95 - QUALITY * amount)))
    with Image.open(file) as picture:
        return _pixels(picture, image)


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _pixels(picture: Image.Image, like: Pixels) -> Pixels:
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, like.shape[2])
