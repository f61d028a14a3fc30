"""Images from folders and archives: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from perse_compile.errors import DataError
from perse_compile.personalise.data import (
    Images,
    classes_present,
    fit,
    match_classes,
    read_image,
    read_images,
    require_two_classes,
)
from perse_compile.program import InputSpec

SPEC = InputSpec(32, 32, 3, (0.5,) * 3, (0.5,) * 3)
GRAY = InputSpec(32, 32, 1, (0.5,), (0.5,))
PETS = ["cat", "dog", "Guinea pig"]


def picture(path: Path, color: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def archive(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def photos(count: int = 4, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *(shape or (28, 28))), np.uint8)


# What is read


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.jpg", "CAT/x.png", "guinea_pig/deep/er/y.png"):
        picture(tmp_path / name)
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"clutter")
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"clutter")
    (tmp_path / "an empty folder").mkdir()
    images = read_images(tmp_path, SPEC, PETS)
    assert images.pixels.shape == (4, 32, 32, 3) and images.pixels.dtype == np.uint8
    assert images.labels is not None and images.labels.tolist() == [0, 1, 1, 2]
    assert [Path(path).name for path in images.paths] == ["x.png", "a.jpg", "b.png", "y.png"]
    assert images.class_names == PETS and images.name == tmp_path.name and len(images) == 4
    assert images.pixels[2, 16, 16].tolist() == [200, 100, 50]
    assert classes_present(images) == [0, 1, 2]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    images = read_images(tmp_path, SPEC, PETS)
    assert images.labels is None and len(images) == 1 and classes_present(images) == []


def test_mixed_folders(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png", "Unlabelled/c.png", "loose.png"):
        picture(tmp_path / name)
    images = read_images(tmp_path, SPEC, PETS)
    found = {Path(p).name: int(k) for p, k in zip(images.paths, np.asarray(images.labels), strict=True)}
    assert found == {"a.png": 0, "b.png": 1, "c.png": -1, "loose.png": -1}
    assert classes_present(images) == [0, 1]


def test_only_an_unlabelled_folder(tmp_path: Path) -> None:
    picture(tmp_path / "unlabelled" / "c.png")
    assert read_images(tmp_path, SPEC, PETS).labels is None


def test_names_of_a_program_without_names() -> None:
    generic = [f"class{i}" for i in range(4)]
    names, matched = match_classes(["sofa", "chair"], generic, "here")
    assert names == ["chair", "sofa", "class2", "class3"] and matched == {"chair": 0, "sofa": 1}
    assert match_classes(["3", "class1"], generic, "here") == (generic, {"3": 3, "class1": 1})


def test_a_number_is_an_index() -> None:
    assert match_classes(["2"], PETS, "here")[1] == {"2": 2}
    assert match_classes(["2"], ["2", "1", "0"], "here")[1] == {"2": 0}


def test_several_classes_of_one_name() -> None:
    crane = ["crane", "heron", "crane"]
    with pytest.raises(DataError, match="several classes are named 'crane'; name it by its index, 0 or 2"):
        match_classes(["crane"], crane, "here")
    assert match_classes(["2"], crane, "here")[1] == {"2": 2}


def test_progress_counts_images(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    told: list[tuple[int, int]] = []
    read_images(tmp_path, SPEC, PETS, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    two = archive(tmp_path / "a.npz", images=photos(2))
    read_images(two, SPEC, PETS, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_small_square_images_are_stretched_and_photos_cropped() -> None:
    small = Image.fromarray(photos(1)[0])
    expected = np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(fit(small, SPEC), np.repeat(expected[:, :, None], 3, 2))
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255  # only the middle third is seen
    assert fit(Image.fromarray(wide), SPEC)[:, 2:-2].min() == 255
    same = photos(1, 32, 32, 3)[0]
    assert np.array_equal(fit(Image.fromarray(same), SPEC), same)
    tall = InputSpec(40, 20, 3, (0.5,) * 3, (0.5,) * 3)
    assert fit(Image.fromarray(wide), tall).shape == (40, 20, 3)


def test_torchvisions_preset(tmp_path: Path) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    noise = Image.fromarray(photos(1, 60, 80, 3)[0])
    expected = functional.center_crop(functional.resize(noise, [64], antialias=True), [56, 56])
    spec = InputSpec(56, 56, 3, (0.5,) * 3, (0.5,) * 3)
    assert np.array_equal(fit(noise, spec), np.asarray(expected))


def test_channels(tmp_path: Path) -> None:
    color = picture(tmp_path / "color.png", (255, 0, 0))
    assert read_image(color, GRAY).shape == (32, 32, 1) and read_image(color, GRAY)[0, 0, 0] == 76
    Image.new("L", (40, 40), 9).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png", SPEC)[5, 5].tolist() == [9, 9, 9]
    Image.new("RGBA", (40, 40), (1, 2, 3, 128)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png", SPEC)[5, 5].tolist() == [1, 2, 3]
    Image.new("P", (40, 40), 0).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", SPEC).shape == (32, 32, 3)
    Image.fromarray(np.full((40, 40), 0x4321, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", SPEC)[5, 5].tolist() == [0x43] * 3


def test_exif_orientation(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif)
    upright = read_image(tmp_path / "a.jpg", SPEC)
    assert upright[:12].max() < 20 and upright[-12:].min() > 235


def test_large_photos(tmp_path: Path) -> None:
    picture(tmp_path / "large.jpg", size=(2000, 1500))
    assert np.abs(read_image(tmp_path / "large.jpg", SPEC).astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (28, 28, 3), (50, 28, 3)])
def test_npz(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = archive(tmp_path / "a.npz", images=photos(4, *shape), labels=np.array([0, 2, -1, 1], np.int16))
    images = read_images(path, SPEC, PETS)
    assert images.pixels.shape == (4, 32, 32, 3)
    assert images.labels is not None and images.labels.tolist() == [0, 2, -1, 1] and images.labels.dtype == np.int64
    assert images.paths[1] == f"{path}[1]" and images.name == "a.npz"


def test_npz_without_labels(tmp_path: Path) -> None:
    assert read_images(archive(tmp_path / "a.npz", images=photos()), SPEC, PETS).labels is None
    nothing = np.full(4, -1)
    assert read_images(archive(tmp_path / "b.npz", images=photos(), labels=nothing), SPEC, PETS).labels is None


def test_npz_with_names_of_its_own(tmp_path: Path) -> None:
    own = np.array(["dog", "cat", "unicorn"])
    path = archive(tmp_path / "a.npz", images=photos(), labels=np.array([0, 1, -1, 0]), class_names=own)
    images = read_images(path, SPEC, PETS)
    assert images.labels is not None and images.labels.tolist() == [1, 0, -1, 1]
    assert images.class_names == PETS
    generic = read_images(path, SPEC, [f"class{i}" for i in range(4)])
    assert generic.labels is not None and generic.labels.tolist() == [0, 1, -1, 0]
    assert generic.class_names == ["dog", "cat", "unicorn", "class3"]
    same = archive(tmp_path / "b.npz", images=photos(), labels=np.arange(4) % 3, class_names=np.array(PETS))
    assert np.asarray(read_images(same, SPEC, PETS).labels).tolist() == [0, 1, 2, 0]


# What is refused


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give a folder"):
        read_images(tmp_path / "nowhere", SPEC, PETS)
    with pytest.raises(DataError, match=r"nowhere.png does not exist"):
        read_image(tmp_path / "nowhere.png", SPEC)


def test_neither_folder_nor_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a folder of images nor an \.npz"):
        read_images(picture(tmp_path / "a.png"), SPEC, PETS)


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="has no images"):
        read_images(tmp_path, SPEC, PETS)


@pytest.mark.parametrize("name", ["notes.txt", "cat/fake.jpg"])
def test_files_that_are_not_images(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "cat" / "a.png")
    (tmp_path / name).write_text("hello")
    with pytest.raises(DataError, match=f"{name} is not an image that can be read"):
        read_images(tmp_path, SPEC, PETS)


def test_heic(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match="convert it to JPEG"):
        read_images(tmp_path, SPEC, PETS)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_damaged_images(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(photos(1, 200, 200, 3)[0]).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match=rf"a\.{kind} is (damaged|not an image)"):
        read_images(tmp_path, SPEC, PETS)


def test_a_folder_that_cannot_be_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is damaged"):
        read_image(tmp_path, SPEC)


def test_far_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    assert read_image(path, SPEC).shape == (32, 32, 3)  # Pillow only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="too many pixels"):
        read_image(path, SPEC)


def test_unknown_class_folders(tmp_path: Path) -> None:
    picture(tmp_path / "unicorn" / "a.png")
    with pytest.raises(DataError, match="no class is named 'unicorn'; known: cat, dog, Guinea pig"):
        read_images(tmp_path, SPEC, PETS)
    with pytest.raises(DataError, match=r"no class is named '30'; known: kind0, .*, kind19, \.\.\. \(30 in all\)"):
        match_classes(["30"], [f"kind{i}" for i in range(30)], "here")


def test_more_folders_than_classes() -> None:
    with pytest.raises(DataError, match="no class is named"):
        match_classes(["a", "b", "c"], ["class0", "class1"], "here")


IMAGES = photos()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "has no array `images`; it has: pictures"),
        ({"images": IMAGES.astype(np.float32)}, "`images` is float32"),
        ({"images": IMAGES[0]}, r"`images` has shape \(28, 28\)"),
        ({"images": photos(4, 28, 28, 4)}, "`images` has shape"),
        ({"images": np.zeros((4, 0, 28), np.uint8)}, "`images` has shape"),
        ({"images": IMAGES[:0]}, "has no images"),
        ({"images": IMAGES, "labels": np.zeros(4, np.float32)}, "`labels` is float32; integers"),
        ({"images": IMAGES, "labels": np.zeros(3, np.int64)}, r"`labels` has shape \(3,\), but there are 4 images"),
        ({"images": IMAGES, "labels": np.array([0, 1, 2, 3])}, r"label 3 is out of range; there are 3 classes"),
        ({"images": IMAGES, "labels": np.array([0, 1, 2, -2])}, "label -2 is out of range"),
        ({"images": IMAGES, "labels": np.zeros(4, np.int64), "class_names": np.zeros(3)}, "`class_names` is float64"),
        (
            {"images": IMAGES, "labels": np.array([0, 0, 0, 1]), "class_names": np.array(["cat"])},
            "label 1 is out of range; there are 1 classes",
        ),
        (
            {"images": IMAGES, "labels": np.array([0, 0, 0, 1]), "class_names": np.array(["cat", "unicorn"])},
            "no class is named 'unicorn'",
        ),
        ({"images": np.array([{}], object)}, "cannot be read as .npz"),
    ],
)
def test_bad_archives(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_images(archive(tmp_path / "a.npz", **arrays), SPEC, PETS)


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_damaged_archives(tmp_path: Path, keep: int) -> None:
    path = archive(tmp_path / "a.npz", images=IMAGES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        read_images(path, SPEC, PETS)


def test_flipped_bits_in_an_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", images=IMAGES)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        read_images(path, SPEC, PETS)


def test_an_archive_that_is_a_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match="is a single array"):
        read_images(tmp_path / "a.npz", SPEC, PETS)


def test_one_class_only() -> None:
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    require_two_classes(Images("x", pixels, None, PETS, []))
    require_two_classes(Images("x", pixels, np.array([0, 1, -1]), PETS, []))
    with pytest.raises(DataError, match=r"x has labels of one class only \(dog\)"):
        require_two_classes(Images("x", pixels, np.array([1, 1, -1]), PETS, []))
