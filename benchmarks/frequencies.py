"""When class frequencies that were estimated without labels can be believed: rules for that, on simulated people.

    python benchmarks/frequencies.py PROGRAM IMAGES.npz [--users 8] [--seeds 6] [--samples 300] [--test 600]

PROGRAM is a .perse file with trained exits (no bottlenecks), IMAGES.npz labelled images that it never saw. What the
final exit gains by the correction (runtime/frequencies.c), over a person's images and others of theirs, is compared
with what each rule lets through; what it does not counts as 0, though the device then tries something else. People are
of the `development` population, or meet 2 to 7 classes from a Dirichlet prior through its cameras or milder ones; those
whom an early exit would teach are left out. The camera is not corrected.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from perse_compile import ops
from perse_compile.personalise.data import Images, read_images
from perse_compile.personalise.features import extract_features
from perse_compile.personalise.shifts import Shift
from perse_compile.personalise.users import DEVELOPMENT, Sizes, User, seen_by, simulate
from perse_compile.program import Program

Array = NDArray[np.float64]
TRUST, SHARE, ROUNDS, NEAR, FLOOR = 0.8, 0.8, 10, 10, 0.1  # as in runtime/frequencies.c and neighbours.c
SEVERE = 0.10
EARLY_TELLS_MORE = 0.3  # as in runtime/teacher.c
MANY_CLASSES = replace(DEVELOPMENT, name="many", classes=(2, 3, 4, 5, 6, 7), concentration=2.0, salt=11)
MILD = (Shift(), Shift(jpeg=0.5), Shift(noise=0.6), Shift(blur=0.6), Shift(rotation=-0.4))
POPULATIONS = (DEVELOPMENT, MANY_CLASSES, replace(MANY_CLASSES, name="mild", shifts=MILD, salt=13))


@dataclass(frozen=True)
class Person:
    """What the correction does to one, and what can be known of it without labels."""

    severe: bool
    images: int
    gain: float  # share of answers that become right
    halves: float  # total variation of the frequencies by one half of the images and by the other
    exits: tuple[float, ...]  # of each early exit's own estimate and the final exit's
    changed: float  # share of the answers that the correction changes
    evened: float  # and once they are evened out; 1 where these are all one class


Rule = Callable[[Person], bool]


def at_most(share: float, limit: float, images: int) -> bool:
    """Surely: one-sided, 95 %."""
    return share + 1.645 * (share * (1 - share) / images) ** 0.5 <= limit


def rule(exits: float = 1, changed: float = 1, evened: float = 1) -> Rule:
    """Halves agree to 0.2, most early exits to `exits`, and surely at most those shares of the answers change."""

    def believed(p: Person) -> bool:
        agree, early = sum(x <= exits for x in p.exits), len(p.exits)
        counted = at_most(p.changed, changed, p.images) and at_most(p.evened, evened, p.images)
        return p.halves <= 0.2 and (2 * agree > early or early == 0) and counted

    return believed


RULES: dict[str, Rule] = {
    "nothing else": rule(),
    "every exit 0.1, 10 % changed (not: surely)": lambda p: (
        p.halves <= 0.2 and max(p.exits, default=0) <= 0.1 and p.changed <= 0.1
    ),
    "most exits 0.06": rule(exits=0.06),
    "10 % changed once evened out": rule(evened=0.1),
    "most exits 0.06, 10 % once evened out": rule(exits=0.06, evened=0.1),
    "**most exits 0.06, 10 % once evened out, 18 % before**": rule(exits=0.06, evened=0.1, changed=0.18),
    "most exits 0.08, 10 %, 18 %": rule(exits=0.08, evened=0.1, changed=0.18),
    "most exits 0.06, 13 %, 18 %": rule(exits=0.06, evened=0.13, changed=0.18),
    "most exits 0.06, 10 %, 25 %": rule(exits=0.06, evened=0.1, changed=0.25),
}


# --- what the device does ---------------------------------------------------------------------------------


def frequencies(probabilities: Array) -> Array:
    """[N,K] -> [K], as Saerens et al. 2002, drawn towards uniform when images are few."""
    count, classes = probabilities.shape
    drawn, found = classes / (classes + count), np.full(classes, 1 / classes)
    for _ in range(200):
        posterior = probabilities * found
        found = (1 - drawn) * (posterior / posterior.sum(1, keepdims=True)).mean(0) + drawn / classes
    return found


def corrected(probabilities: Array, own: Array) -> Array:
    found = probabilities * own**TRUST
    return np.asarray(found / found.sum(1, keepdims=True))


def evened_out(probabilities: Array, features: Array) -> Array:
    """Drawn towards what is said of the images that look alike (runtime/neighbours.c)."""
    spread = features.std(0)
    unit = (features - features.mean(0)) / (spread + FLOOR * np.sqrt((spread**2).mean()) + 1e-12)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, 1)[:, : NEAR + 1]
    weight = np.take_along_axis(likeness, nearest, 1)
    weight = weight[:, :NEAR] - weight[:, NEAR:] + 1e-6
    weight /= weight.sum(1, keepdims=True)
    now = probabilities
    for _ in range(ROUNDS):
        now = (1 - SHARE) * probabilities + SHARE * np.einsum("nk,nkc->nc", weight, now[nearest[:, :NEAR]])
    return now


def apart(one: Array, other: Array) -> float:
    return float(np.abs(one - other).sum() / 2)


# --- people -----------------------------------------------------------------------------------------------


def answers(program: Program, seen: Images) -> tuple[list[Array], list[Array]]:
    """Features and probabilities of every exit; without spare outputs, of which nothing is known."""
    features = extract_features(program, seen.pixels, "cpu", lambda *_: None)
    said = []
    for exit, values in zip(program.exits, features, strict=True):
        head = (program.tensor(f"{exit.name}.{part}") for part in ("shift", "scale", "weight", "bias"))
        logits = ops.head(values, *head)[:, : len(program.classes)].double()
        said.append(torch.softmax(logits / exit.temperature, 1).numpy())
    return [values.double().numpy() for values in features], said


def information(probabilities: Array) -> float:
    """Nats that an answer carries."""
    mean = probabilities.mean(0)
    return float((probabilities * np.log(probabilities + 1e-30)).sum(1).mean() - (mean * np.log(mean + 1e-30)).sum())


def person(program: Program, user: User, images: Images) -> Person | None:
    """None where an early exit would teach."""
    train, test = seen_by(user, images, "train"), seen_by(user, images, "test")
    clean = seen_by(replace(user, shift=Shift()), images, "test")
    assert train.labels is not None and test.labels is not None
    (features, said), (_, later), (_, undisturbed) = (answers(program, seen) for seen in (train, test, clean))
    told = [information(probabilities) for probabilities in said]
    if max(told) > told[-1] + EARLY_TELLS_MORE:
        return None
    own = frequencies(said[-1])
    before, after = said[-1], corrected(said[-1], own)
    truth = np.concatenate([train.labels, test.labels])
    right = [
        np.concatenate([one.argmax(1), other.argmax(1)]) == truth
        for one, other in ((before, later[-1]), (after, corrected(later[-1], own)))
    ]
    alike = [
        evened_out(probabilities, features[max(len(features) - 2, 0)]).argmax(1) for probabilities in (before, after)
    ]
    lost = (undisturbed[-1].argmax(1) == test.labels).mean() - (later[-1].argmax(1) == test.labels).mean()
    return Person(
        severe=bool(lost > SEVERE),
        images=len(before),
        gain=float(right[1].mean() - right[0].mean()),
        halves=apart(frequencies(before[::2]), frequencies(before[1::2])),
        exits=tuple(apart(own, frequencies(early)) for early in said[:-1]),
        changed=float((before.argmax(1) != after.argmax(1)).mean()),
        evened=float((alike[0] != alike[1]).mean()) if len(set(alike[0])) > 1 else 1.0,
    )


def table(people: list[Person]) -> str:
    gains, severe = np.array([p.gain for p in people]), np.array([p.severe for p in people])
    lines = [
        "| believed if halves 0.2 and | believed | all | not severe | worst | a point worse |",
        "|---|---|---|---|---|---|",
    ]
    for name, believed in RULES.items():
        taken = np.array([believed(p) for p in people])
        gained = 100 * np.where(taken, gains, 0)
        others = f"{gained[~severe].mean():+.2f}" if (~severe).any() else "-"
        row = f"| {name} | {taken.mean():.0%} | {gained.mean():+.2f} | {others} | {gained.min():+.1f}"
        lines.append(f"{row} | {(gained <= -1).sum()} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("data", type=Path)
    for name, value in (("users", 8), ("seeds", 6), ("samples", 300), ("test", 600)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    program = Program.load(given.program)
    images = read_images(given.data, program.input, program.classes, None)
    sizes = Sizes(train=given.samples, test=given.test)
    users = [
        user
        for population in POPULATIONS
        for seed in range(given.seeds)
        for user in simulate(images, given.users, population, seed=seed, sizes=sizes)
    ]
    found = []
    for done, user in enumerate(users, 1):
        found.append(person(program, user, images))
        print(f"{done} of {len(users)} people", end="\r", flush=True)
    people = [p for p in found if p is not None]
    print(f"{len(people)} people, {sum(p.severe for p in people)} of them severe\n\n{table(people)}")


if __name__ == "__main__":
    main()
