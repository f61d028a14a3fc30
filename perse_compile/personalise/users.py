"""Simulated people: each meets some classes more often than others, through a camera of their own.

    images = read_images(path, spec, class_names)
    for user in simulate(images, 20, REPORT, seed=0):
        train = seen_by(user, images, "train", samples=30, labels=0.1)
        test = seen_by(user, images, "test")

Hyper-parameters are chosen on `DEVELOPMENT` and figures reported on `REPORT`, which has other shifts, other priors
and other draws. Everything follows from the seed. An image, or another with the same pixels, belongs to one user and
there to one split; fewer samples of a user are the first ones of more, and fewer labels are some of those of more.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perse_compile.errors import DataError
from perse_compile.personalise.data import UNKNOWN, Images, classes_present
from perse_compile.personalise.shifts import Shift, shifted

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """Images of a user's splits. The device splits `train` itself; `temperature` and `threshold` are for methods that
    are fitted elsewhere."""

    train: int = 300
    temperature: int = 0
    threshold: int = 0
    test: int = 150


@dataclass(frozen=True)
class Population:
    """Whom to draw users from."""

    name: str
    shifts: tuple[Shift, ...]  # of full severity; users take turns
    severities: tuple[float, ...]  # that they are scaled by, in turn as well
    classes: tuple[int, ...]  # how many a user meets, one of these; all, where there are fewer
    concentration: float | None = None  # of a Dirichlet prior over the user's classes; None: all alike
    salt: int = 0  # other users from the same seed


DEVELOPMENT = Population(
    "development",
    shifts=(Shift(), Shift(blur=1), Shift(exposure=-1), Shift(noise=1), Shift(rotation=-1), Shift(colour=1)),
    severities=(0.15, 0.3, 0.45, 0.6),
    classes=(4,),
    salt=1,
)
REPORT = Population(
    "report",
    shifts=(
        Shift(),
        Shift(contrast=1),
        Shift(rotation=1),
        Shift(jpeg=1),
        Shift(downscale=1),
        Shift(exposure=1, noise=0.5),
        Shift(contrast=-1, colour=-1),
        Shift(blur=0.7, exposure=-0.7),
    ),
    severities=(0.2, 0.4, 0.7),
    classes=(3, 4, 5, 6),
    concentration=2.0,
    salt=2,
)
POPULATIONS = {population.name: population for population in (DEVELOPMENT, REPORT)}


@dataclass(frozen=True)
class User:
    """One person: what they meet, how their camera sees it, and which images are theirs."""

    name: str
    seed: int
    prior: tuple[float, ...]  # of every class
    shift: Shift
    splits: dict[str, Indices]  # train, temperature, threshold, test: places in the simulated images

    @property
    def classes(self) -> list[int]:
        """Those that they meet."""
        return [label for label, share in enumerate(self.prior) if share > 0]


def simulate(
    images: Images, count: int, population: Population = REPORT, *, seed: int = 0, sizes: Sizes = Sizes()
) -> list[User]:
    """`count` users over the labelled ones of the images. Raises DataError when these are too few for so many."""
    present = classes_present(images)
    if len(present) < 2:
        raise DataError(f"{images.name} has labels of {len(present)} classes; users need images of two at least")
    grey = images.pixels.shape[3] == 1
    generator = np.random.default_rng([seed, population.salt])
    free = _free(images, generator)
    users = []
    for number in range(count):
        shift = _shift(population, number, seed, grey)
        prior = _prior(population, free, len(images.class_names), sum(vars(sizes).values()), generator)
        splits = {}
        for split, size in vars(sizes).items():
            splits[split] = _take(free, prior, size, generator, f"{images.name}, user {number + 1} of {count}")
        own = int(generator.integers(2**31))
        users.append(User(f"{population.name}-{seed}-{number + 1:02}", own, tuple(prior.tolist()), shift, splits))
    return users


def seen_by(user: User, images: Images, split: str, *, samples: int | None = None, labels: float = 1.0) -> Images:
    """The first `samples` images of a split through the user's camera, a share of them labelled, the rest -1."""
    chosen = user.splits[split][:samples]
    pixels = np.empty((len(chosen), *images.pixels.shape[1:]), np.uint8)
    for place, index in enumerate(chosen):
        pixels[place] = shifted(images.pixels[index], user.shift, np.random.default_rng([user.seed, int(index)]))
    assert images.labels is not None  # or there were no users
    known = np.full(len(chosen), UNKNOWN, np.int64)
    order = np.random.default_rng([user.seed, zlib.crc32(split.encode())]).permutation(len(user.splits[split]))
    told = order[order < len(chosen)][: _labelled(len(chosen), labels)]
    known[told] = images.labels[chosen[told]]
    paths = [images.paths[index] for index in chosen]
    return Images(f"{user.name} {split}", pixels, known if len(told) else None, images.class_names, paths)


def _labelled(count: int, share: float) -> int:
    if not 0 <= share <= 1:
        raise DataError(f"a share of labels of {share:g}: give one between 0 and 1")
    return max(1, round(count * share)) if share else 0


# --- drawing ----------------------------------------------------------------------------------------------


def _free(images: Images, generator: np.random.Generator) -> dict[int, list[int]]:
    """Places of the images of each class, shuffled; one of each set of equal pixels."""
    assert images.labels is not None
    firsts: dict[bytes, int] = {}
    for index, label in enumerate(images.labels):
        if label != UNKNOWN:
            firsts.setdefault(images.pixels[index].tobytes(), index)
    free: dict[int, list[int]] = {label: [] for label in classes_present(images)}
    for index in generator.permutation(np.array(list(firsts.values()))):
        free[int(images.labels[index])].append(int(index))
    return free


def _shift(population: Population, number: int, seed: int, grey: bool) -> Shift:
    """Families in turn, and each time round, and from seed to seed, the next severity for each."""
    family, turn = number % len(population.shifts), number // len(population.shifts)
    severity = population.severities[(family + turn + seed) % len(population.severities)]
    kind = population.shifts[family]
    if grey:
        kind = replace(kind, colour=0.0)
    return Shift(**{name: full * severity for name, full in kind})


def _prior(
    population: Population, free: dict[int, list[int]], classes: int, wanted: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Of all classes. A class is the likelier to be met the more images of it are left."""
    left = np.array([len(free.get(label, ())) for label in range(classes)], np.float64)
    most = int((left > 0).sum())
    if most == 0:
        return left
    size = min(int(generator.choice(population.classes)), most)
    own = generator.choice(classes, size, replace=False, p=left**3 / (left**3).sum())
    shares = np.ones(size)
    if population.concentration is not None:
        shares = generator.dirichlet(np.full(size, population.concentration))
    prior = np.zeros(classes)
    prior[own] = np.maximum(shares / shares.sum(), 0.05)  # met now and then, or it is not met
    prior = np.minimum(prior / prior.sum(), left / wanted) if left[own].sum() >= wanted else prior
    return np.asarray(prior / prior.sum(), np.float64)


def _take(
    free: dict[int, list[int]], prior: NDArray[np.float64], size: int, generator: np.random.Generator, where: str
) -> Indices:
    """Images in random order, classes as often as the prior says; where one has run out, others of the user's."""
    own = np.flatnonzero(prior)
    if sum(len(free[int(label)]) for label in own) < size:
        raise DataError(f"{where}: not enough labelled images; give more, or ask for fewer users, samples or tests")
    taken: list[int] = []
    while len(taken) < size:
        alive = np.array([label for label in own if free[int(label)]])
        counts = generator.multinomial(size - len(taken), prior[alive] / prior[alive].sum())
        for label, count in zip(alive, counts, strict=True):
            taken += [free[int(label)].pop() for _ in range(min(int(count), len(free[int(label)])))]
    return generator.permutation(np.array(taken, np.int64))
