"""One image from Python: a path, a PIL image, or an array, as the array that an artifact takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from perse_compile.errors import DataError
from perse_compile.personalise.data import fit, read_image

if TYPE_CHECKING:
    from perse_compile.program import InputSpec


def picture(image: Any, spec: InputSpec) -> NDArray[Any]:
    """uint8 [H,W,C], resized as pictures are; or, of a float array (C,H,W) that is already normalised, float32 [H,W,C].

    An array of uint8 is (H,W), or (H,W,C) with 1, 3 or 4 channels. A float array has the size of the input.
    Raises DataError.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), spec)
    if isinstance(image, Image.Image):
        turned = ImageOps.exif_transpose(image)
        return fit(turned if turned.mode in ("L", "RGB") else turned.convert("RGB"), spec)
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.dtype == np.uint8:
        return _pixels(array, spec)
    size = (spec.channels, spec.height, spec.width)
    if array.dtype.kind == "f" and array.shape == size and np.isfinite(array).all():
        return np.ascontiguousarray(array.transpose(1, 2, 0), np.float32)
    raise DataError(
        f"an array of {array.dtype} {array.shape} is not an image; give a path, a PIL image, uint8 pixels (H,W,C), or"
        f" normalised floats {size}"
    )


def _pixels(array: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    if array.shape == (spec.height, spec.width, spec.channels):
        return np.ascontiguousarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)):
        return picture(Image.fromarray(array), spec)
    raise DataError(f"uint8 pixels of shape {array.shape} are not an image; give (H,W), (H,W,3) or (H,W,4)")
