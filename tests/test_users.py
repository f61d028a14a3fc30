"""Simulated people: who they are, what they see, and that nothing leaks from one split to another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perse_compile.errors import DataError
from perse_compile.personalise.data import UNKNOWN, Images
from perse_compile.personalise.shifts import Shift, shifted
from perse_compile.personalise.users import DEVELOPMENT, POPULATIONS, REPORT, Sizes, seen_by, simulate

SIZES = Sizes(train=60, temperature=10, threshold=10, test=30)
CLASSES = [f"class{index}" for index in range(8)]


def images(count: int = 2400, channels: int = 3, labels: np.ndarray | None = None) -> Images:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (count, 16, 16, channels), np.uint8)
    known = np.arange(count) % len(CLASSES) if labels is None else labels
    return Images("noise", pixels, known, CLASSES, [str(index) for index in range(count)])


def photo(channels: int = 3) -> np.ndarray:
    """Bright to the left, dark to the right, with a light square above the middle."""
    picture = np.broadcast_to(np.linspace(180, 60, 24), (24, 24)).copy()
    picture[4:9, 9:15] = 230
    return np.repeat(picture[..., None], channels, 2).astype(np.uint8)


def seen(shift: Shift, image: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    return shifted(photo() if image is None else image, shift, np.random.default_rng(seed)).astype(float)


# --- shifts -----------------------------------------------------------------------------------------------


def test_no_shift_changes_nothing() -> None:
    assert np.array_equal(seen(Shift()), photo())


@pytest.mark.parametrize("name", [name for name, _ in Shift() if name != "noise"])
def test_more_of_a_shift_is_further_away(name: str) -> None:
    distances = [np.abs(seen(Shift(**{name: severity})) - photo()).mean() for severity in (0.1, 0.4, 1.0)]
    assert 0 <= distances[0] < distances[1] < distances[2]


def test_what_each_shift_does() -> None:
    plain = photo().astype(float)
    inner = np.s_[2:-2, 2:-2]
    assert seen(Shift(exposure=0.3)).mean() > plain.mean() > seen(Shift(exposure=-0.3)).mean()
    assert seen(Shift(contrast=0.5)).std() < plain.std() < seen(Shift(contrast=-0.5)).std()
    warm = seen(Shift(colour=0.5)).mean((0, 1))
    assert warm[0] > plain.mean() > warm[2] and warm[1] == plain[..., 1].mean()
    for lost in (Shift(blur=1), Shift(downscale=1)):  # edges
        assert np.abs(np.diff(seen(lost), axis=0)).max() < np.abs(np.diff(plain, axis=0)).max() / 2
    clockwise = seen(Shift(rotation=1))[..., 0]
    square = np.argwhere(clockwise[inner] > 200).mean(0)
    assert square[1] > np.argwhere(plain[..., 0][inner] > 200).mean(0)[1]  # from above the middle to its right
    assert clockwise.min() > 50  # no black corners
    assert seen(Shift(noise=0.5)).std() > plain.std()
    assert len(np.unique(seen(Shift(jpeg=1)))) != len(np.unique(plain))


def test_a_shift_varies_from_image_to_image_but_not_from_time_to_time() -> None:
    shift = Shift(rotation=-0.3, noise=0.2)
    assert np.array_equal(seen(shift, seed=1), seen(shift, seed=1))
    assert not np.array_equal(seen(Shift(exposure=0.3), seed=1), seen(Shift(exposure=0.3), seed=2))


def test_grey_images_stay_grey() -> None:
    everything = Shift(0.2, 0.2, 0.2, 0.2, 0.0, 0.2, 0.2, 0.2)
    assert seen(everything, photo(1)).shape == (24, 24, 1)
    with pytest.raises(DataError, match="needs images of three channels"):
        seen(Shift(colour=0.2), photo(1))


@pytest.mark.parametrize(("wrong", "low"), [({"blur": -0.1}, "0"), ({"exposure": -1.1}, "-1"), ({"noise": 1.01}, "0")])
def test_a_severity_out_of_range(wrong: dict[str, float], low: str) -> None:
    with pytest.raises(DataError, match=f"severity of .* between {low} and 1"):
        Shift(**wrong)


def test_a_shift_in_words() -> None:
    assert str(Shift()) == "no shift"
    assert str(Shift(rotation=-0.3, noise=0.25)) == "rotation -0.30, noise 0.25"


# --- users ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_nothing_leaks(population: object) -> None:
    data = images()
    copies = data.pixels.copy()
    copies[1::2] = copies[::2]  # every image twice; of different classes
    users = simulate(replace(data, pixels=copies), 8, population, seed=3, sizes=SIZES)  # type: ignore[arg-type]
    splits = [split for user in users for split in user.splits.values()]
    assert [len(split) for split in splits] == [60, 10, 10, 30] * 8
    everything = np.concatenate(splits)
    assert len({copies[index].tobytes() for index in everything}) == len(everything)


def test_users_meet_their_own_classes() -> None:
    data = images()
    for user in simulate(data, 8, REPORT, sizes=SIZES):
        assert len(user.prior) == len(CLASSES) and sum(user.prior) == pytest.approx(1)
        assert 3 <= len(user.classes) <= 6
        drawn = np.bincount(data.labels[np.concatenate(list(user.splits.values()))], minlength=len(CLASSES))
        assert set(np.flatnonzero(drawn)) <= set(user.classes)
        assert np.abs(drawn / drawn.sum() - user.prior).max() < 0.15


def test_the_two_populations_are_strangers() -> None:
    """Hyper-parameters chosen on one are not tried on the other's shifts."""
    kinds = [{frozenset((name, full > 0) for name, full in shift if full) for shift in population.shifts}
             for population in (DEVELOPMENT, REPORT)]  # fmt: skip
    assert kinds[0] & kinds[1] == {frozenset()}  # only the users without a shift
    ours, theirs = (simulate(images(), 6, population, sizes=SIZES) for population in (DEVELOPMENT, REPORT))
    assert {user.seed for user in ours}.isdisjoint(user.seed for user in theirs)


def test_the_seed_says_everything() -> None:
    first, again, other = (simulate(images(), 4, REPORT, seed=seed, sizes=SIZES) for seed in (1, 1, 2))
    for one, same in zip(first, again, strict=True):
        assert (one.name, one.seed, one.prior, one.shift) == (same.name, same.seed, same.prior, same.shift)
        assert all(np.array_equal(one.splits[split], same.splits[split]) for split in one.splits)
    assert first[0].name != other[0].name and first[0].prior != other[0].prior


def test_fewer_samples_and_labels_are_some_of_more() -> None:
    data = images()
    user = simulate(data, 3, REPORT, sizes=SIZES)[1]
    assert user.shift != Shift()
    full = seen_by(user, data, "train")
    assert full.labels is not None and data.labels is not None
    assert np.array_equal(full.labels, data.labels[user.splits["train"]])
    assert not np.array_equal(full.pixels, data.pixels[user.splits["train"]])
    few = seen_by(user, data, "train", samples=20, labels=0.25)
    assert few.labels is not None
    assert np.array_equal(few.pixels, full.pixels[:20])
    known = few.labels != UNKNOWN
    assert known.sum() == 5 and np.array_equal(few.labels[known], full.labels[:20][known])
    more = seen_by(user, data, "train", samples=20, labels=0.5)
    assert more.labels is not None and (more.labels[known] != UNKNOWN).all() and (more.labels != UNKNOWN).sum() == 10
    assert seen_by(user, data, "train", labels=0).labels is None
    assert (seen_by(user, data, "train", samples=20, labels=0.01).labels != UNKNOWN).sum() == 1


def test_users_without_colours_in_grey_images() -> None:
    data = images(channels=1)
    for user in simulate(data, 8, REPORT, sizes=SIZES):
        assert user.shift.colour == 0
        assert seen_by(user, data, "test").pixels.shape == (30, 16, 16, 1)


def test_images_without_labels_belong_to_nobody() -> None:
    labels = np.arange(2400) % len(CLASSES)
    labels[::3] = UNKNOWN
    users = simulate(images(labels=labels), 6, DEVELOPMENT, sizes=SIZES)
    assert all(index % 3 for user in users for split in user.splits.values() for index in split)


def test_too_little_to_draw_from() -> None:
    with pytest.raises(DataError, match=r"user \d of 20: not enough labelled images"):
        simulate(images(600), 20, REPORT, sizes=SIZES)
    with pytest.raises(DataError, match=r"labels of 1 classes; users need images of two"):
        simulate(images(labels=np.zeros(2400, np.int64)), 2, sizes=SIZES)
    with pytest.raises(DataError, match=r"a share of labels of 1.5"):
        seen_by(simulate(images(), 1, sizes=SIZES)[0], images(), "train", labels=1.5)
