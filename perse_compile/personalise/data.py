"""Images of a person, from a folder or an .npz, as the bytes a program's input takes.

    photos/cat/*.jpg  photos/dog/*.jpg         one sub-folder per class: labelled
    photos/*.jpg                               flat: unlabelled
    photos/cat/*.jpg  photos/unlabelled/*.jpg  mixed (so are loose files beside sub-folders)
    photos.npz                                 images uint8 [N,H,W(,3)]; optional labels (-1 = unknown), class_names

A sub-folder belongs to the class of that name; case, and `_` for a space, do not matter. A number is the index of a
class. When the program knows no names (class0, class1, ...), folders of other names are classes in sorted order.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from perse_compile.errors import DataError

if TYPE_CHECKING:
    from perse_compile.program import InputSpec

Progress = Callable[[int, int], None]  # done, total

UNKNOWN = -1
UNLABELLED = "unlabelled"  # the sub-folder whose images have no label
PRESET_RESIZE, PRESET_CROP = 256, 224  # torchvision's: shorter side to 256, then the central 224
CLUTTER = {"thumbs.db", "desktop.ini"}  # what Windows leaves in folders of pictures


@dataclass(frozen=True)
class Images:
    """Images in the size of a program's input."""

    name: str  # of the folder or file they came from
    pixels: NDArray[np.uint8]  # [N,H,W,C]
    labels: NDArray[np.int64] | None  # [N], UNKNOWN where not known; None when nothing is known
    class_names: list[str]  # of the program; where it has none, of the folders
    paths: list[str]  # where each image came from

    def __len__(self) -> int:
        return len(self.pixels)


def read_images(path: Path, spec: InputSpec, class_names: Sequence[str], progress: Progress | None = None) -> Images:
    """Everything under `path`, resized to `spec`. `progress` is told after each image."""
    if path.is_dir():
        return _read_folder(path, spec, class_names, progress)
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path, spec, class_names, progress)
    if path.exists():
        raise DataError(f"{path} is neither a folder of images nor an .npz file")
    raise DataError(f"{path} does not exist; give a folder of images or an .npz file")


def read_image(path: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """One picture as [H,W,C]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a 100-megapixel photo is still a photo
            return _decode(path, spec)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path} has too many pixels to be a photo; scale it down or remove it") from None
    except UnidentifiedImageError:
        heic = path.suffix.lower() in (".heic", ".heif")
        advice = "convert it to JPEG" if heic else "remove it from the data"
        raise DataError(f"{path} is not an image that can be read (JPEG, PNG, BMP, WebP, ...); {advice}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); replace or remove it") from None


def classes_present(images: Images) -> list[int]:
    """The classes that at least one image has, in order."""
    if images.labels is None:
        return []
    return [int(label) for label in np.unique(images.labels) if label != UNKNOWN]


def require_two_classes(images: Images) -> None:
    """An error when every label is the same: a head would learn to answer nothing else."""
    present = classes_present(images)
    if len(present) == 1:
        only = images.class_names[present[0]]
        raise DataError(f"{images.name} has labels of one class only ({only}); add a second class, or give no labels")


# Sizes


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Resized and in the program's channels, [H,W,C].

    A small image of the input's own shape is stretched to it; anything else is treated as a photo, as torchvision's
    presets do: scaled until it covers 256/224 of the input, then cut out of the middle.
    """
    width, height = image.size
    if width * spec.height == height * spec.width and width <= spec.width:
        if width != spec.width:
            image = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    else:
        scale = max(spec.width / width, spec.height / height) * PRESET_RESIZE / PRESET_CROP
        resized = max(spec.width, round(width * scale)), max(spec.height, round(height * scale))
        left, top = (resized[0] - spec.width) // 2, (resized[1] - spec.height) // 2
        image = image.resize(resized, Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + spec.width, top + spec.height))
    image = image.convert("L" if spec.channels == 1 else "RGB")
    return np.asarray(image, np.uint8).reshape(spec.height, spec.width, spec.channels)


def _decode(path: Path, spec: InputSpec) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        image.draft(None, (2 * spec.width, 2 * spec.height))  # a JPEG need not be decoded at full size
        turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):  # 16 bits
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    if turned.mode not in ("L", "RGB"):
        turned = turned.convert("RGB")
    return fit(turned, spec)


# Folders


def _read_folder(folder: Path, spec: InputSpec, class_names: Sequence[str], progress: Progress | None) -> Images:
    entries = sorted(entry for entry in folder.iterdir() if _wanted(entry))
    folders = [entry for entry in entries if entry.is_dir()]
    named = {entry: list(_files(entry)) for entry in folders if entry.name.lower() != UNLABELLED}
    named = {entry: files for entry, files in named.items() if files}
    names, matched = match_classes([entry.name for entry in named], class_names, f"folder {folder}")
    labelled = [(file, matched[entry.name]) for entry, files in named.items() for file in files]
    unlabelled = [entry for entry in entries if not entry.is_dir()]
    unlabelled += [file for entry in folders if entry not in named for file in _files(entry)]
    found = labelled + [(file, UNKNOWN) for file in unlabelled]
    if not found:
        raise DataError(f"{folder} has no images; put them there, or in one sub-folder per class")
    paths = [file for file, _ in found]
    labels = np.array([label for _, label in found], np.int64)
    pixels = np.empty((len(paths), spec.height, spec.width, spec.channels), np.uint8)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for index, decoded in enumerate(pool.map(lambda file: read_image(file, spec), paths)):
            pixels[index] = decoded
            if progress:
                progress(index + 1, len(paths))
    return Images(folder.name, pixels, _known(labels), names, [str(file) for file in paths])


def _wanted(path: Path) -> bool:
    return not path.name.startswith((".", "__MACOSX")) and path.name.lower() not in CLUTTER


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(entry for entry in folder.iterdir() if _wanted(entry)):
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


# Arrays


def _read_npz(path: Path, spec: InputSpec, class_names: Sequence[str], progress: Progress | None) -> Images:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path} is a single array; save it with numpy.savez(path, images=...)")
            keys = list(archive)
            arrays = {key: archive[key] for key in ("images", "labels", "class_names") if key in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as .npz ({error})") from None
    if "images" not in arrays:
        raise DataError(f"{path} has no array `images`; it has: {', '.join(keys) or 'nothing'}")
    images = _checked_images(arrays["images"], path)
    labels, names = np.full(len(images), UNKNOWN, np.int64), list(class_names)
    if "labels" in arrays:
        own_names = _checked_names(arrays["class_names"], path) if "class_names" in arrays else None
        count = len(class_names) if own_names is None else len(own_names)
        labels = _checked_labels(arrays["labels"], len(images), count, path)
        if own_names is not None:
            names, labels = _translate(labels, own_names, class_names, path)
    pixels = np.empty((len(images), spec.height, spec.width, spec.channels), np.uint8)
    for index, image in enumerate(images):
        pixels[index] = fit(Image.fromarray(image), spec)
        if progress:
            progress(index + 1, len(images))
    return Images(path.name, pixels, _known(labels), names, [f"{path}[{index}]" for index in range(len(images))])


def _checked_images(images: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise DataError(f"{path}: `images` is {images.dtype}; uint8 pixels (0..255) are wanted")
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or 0 in images.shape[1:]:
        raise DataError(f"{path}: `images` has shape {images.shape}; [N,H,W] or [N,H,W,3] is wanted")
    if len(images) == 0:
        raise DataError(f"{path} has no images")
    return images.astype(np.uint8, copy=False)


def _checked_names(names: NDArray[np.generic], path: Path) -> list[str]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{path}: `class_names` is {names.dtype} {names.shape}; a list of unicode strings is wanted")
    return [str(name) for name in names]


def _checked_labels(labels: NDArray[np.generic], images: int, classes: int, path: Path) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: `labels` is {labels.dtype}; integers are wanted")
    if labels.shape != (images,):
        raise DataError(f"{path}: `labels` has shape {labels.shape}, but there are {images} images")
    integers = labels.astype(np.int64)
    low, high = int(integers.min()), int(integers.max())
    if low < UNKNOWN or high >= classes:
        wrong = low if low < UNKNOWN else high
        raise DataError(
            f"{path}: label {wrong} is out of range; there are {classes} classes, from 0, and -1 is unknown"
        )
    return integers


def _translate(
    labels: NDArray[np.int64], own: list[str], class_names: Sequence[str], path: Path
) -> tuple[list[str], NDArray[np.int64]]:
    """Labels that count the archive's own names, as labels that count the program's."""
    if own == list(class_names):
        return own, labels
    used = [int(label) for label in np.unique(labels) if label != UNKNOWN]
    if unnamed(class_names) and len(own) <= len(class_names):
        names = own if not unnamed(own) else []
        return [*names, *class_names[len(names) :]], labels
    names, matched = match_classes([own[label] for label in used], class_names, str(path))
    table = np.full(len(own) + 1, UNKNOWN, np.int64)  # the last entry is what -1 finds
    for label in used:
        table[label] = matched[own[label]]
    return names, table[labels]


# Names


def match_classes(given: Sequence[str], class_names: Sequence[str], where: str) -> tuple[list[str], dict[str, int]]:
    """Which class each given name means, and the names of all classes afterwards."""
    matched = {name: _match(name, class_names) for name in given}
    unknown = [name for name, found in matched.items() if not found]
    ambiguous = [name for name, found in matched.items() if len(found) > 1]
    if unknown and unnamed(class_names) and len(given) <= len(class_names):
        order = sorted(given)
        return [*order, *class_names[len(order) :]], {name: index for index, name in enumerate(order)}
    if unknown:
        known = ", ".join(class_names[:20]) + (f", ... ({len(class_names)} in all)" if len(class_names) > 20 else "")
        raise DataError(f"{where}: no class is named {', '.join(map(repr, unknown))}; known: {known}")
    if ambiguous:
        indices = " or ".join(map(str, matched[ambiguous[0]]))
        raise DataError(f"{where}: several classes are named {ambiguous[0]!r}; name it by its index, {indices}")
    return list(class_names), {name: found[0] for name, found in matched.items()}


def _match(name: str, class_names: Sequence[str]) -> list[int]:
    """Indices of the classes this can mean: of that very name, else of that name but for case, else that index."""
    exact = [index for index, known in enumerate(class_names) if known == name]
    if exact:
        return exact
    plain = [index for index, known in enumerate(class_names) if _plain(known) == _plain(name)]
    if plain:
        return plain
    return [int(name)] if name.isascii() and name.isdigit() and int(name) < len(class_names) else []


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")


def unnamed(class_names: Sequence[str]) -> bool:
    """Nobody has named these classes: class0, class1, ..."""
    return all(name == f"class{index}" for index, name in enumerate(class_names))


def _known(labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    return None if (labels == UNKNOWN).all() else labels
