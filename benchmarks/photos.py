"""Real photographs without a network: those in the wheels of scikit-image and scikit-learn (extra `bench`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perse_compile.program import InputSpec

PHOTOS = {
    "skimage": (
        "data/astronaut.png", "data/camera.png", "data/chelsea.png", "data/coffee.png", "data/coins.png",
        "data/hubble_deep_field.jpg", "data/moon.png", "data/motorcycle_left.png", "data/retina.jpg", "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}  # fmt: skip
PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0))  # the central crop, and two corners


def paths() -> list[Path]:
    found = []
    for package, names in PHOTOS.items():
        spec = find_spec(package)  # found, not imported
        if spec is None or spec.origin is None:
            raise SystemExit(f"no package {package}, whose photographs this needs; pip install -e '.[bench]'")
        found += [Path(spec.origin).parent / name for name in names]
    return found


def spec_of(preset: Any) -> InputSpec:
    """What the preset's images are."""
    [crop] = preset.crop_size
    return InputSpec(crop, crop, 3, tuple(preset.mean), tuple(preset.std))


def crops(preset: Any) -> np.ndarray[Any, Any]:
    """uint8 (N,H,W,3): as torchvision's preset does, shorter side to resize_size, then crop_size, at several places."""
    [shorter], [crop] = preset.resize_size, preset.crop_size
    how = Image.Resampling[preset.interpolation.name]
    found = []
    for path in paths():
        with Image.open(path) as photo:
            picture = photo.convert("RGB")
        scale = shorter / min(picture.size)
        width, height = (max(shorter, int(side * scale)) for side in picture.size)
        pixels = np.asarray(picture.resize((width, height), how))
        for down, right in PLACES:
            top, left = round(down * (height - crop)), round(right * (width - crop))
            found.append(pixels[top : top + crop, left : left + crop])
    return np.stack(found)
