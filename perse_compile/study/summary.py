"""The records of a study as the numbers that are shown: all of them shares, ratios, milliseconds, seconds or bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from perse_compile.study.figures import calibration_error
from perse_compile.study.plan import Plan
from perse_compile.study.records import Records

Row = dict[str, Any]
SEVERE = 0.10  # what a shift costs the network as built, for its user to be a severe one
MAX_DROP = 0.01  # what the artifact aims at by default: accuracy that early answers may lose against its final exit
HARM = -0.005  # what is no longer called no loss
NAMES = {  # of what the heads are compared with
    "early": "as built, with early exits",
    "network": "as built, full network",
    "small": "as built, first exit alone",
    "full": "whole network in PyTorch",
    "hard": "hard pseudo-labels",
}
AS_BUILT: dict[str, Callable[[Row], tuple[float, float]]] = {  # accuracy and milliseconds, from one user's figures
    "early": lambda figures: (figures["accuracy"], figures["ms"]),
    "network": lambda figures: (figures["exits"][-1]["accuracy"], figures["full_ms"]),
    "small": lambda figures: (figures["exits"][0]["accuracy"], figures["curve"][0][0]),
}


def summarise(records: Records, plan: Plan) -> dict[str, Any]:
    """Of the trials of this plan that are done."""
    wanted = {trial.key for trial in plan.trials()}
    done = {key: row for key, row in records.rows.items() if key in wanted}
    people = {(row["seed"], row["user"]): row for row in done.values() if row["kind"] == "user"}
    groups = [(samples, labels, _rows(done, "heads", samples, labels)) for samples, labels in plan.settings()]
    return {
        "trials": {"done": len(done), "planned": len(wanted)},
        "people": _people(people),
        "settings": [
            {**_setting(samples, labels, rows, people), "fast": _fast(_rows(done, "fast", samples, labels), people)}
            for samples, labels, rows in groups
            if rows
        ],
        "cost": _cost(done),
        "baselines": _baselines(done, people, plan),
    }


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Mean, standard deviation, best (greatest) and worst; None of nothing."""
    found = np.array(list(values), np.float64)
    if not len(found):
        return None
    mean, deviation, best, worst = found.mean(), found.std(), found.max(), found.min()
    return {"mean": float(mean), "spread": float(deviation), "best": float(best), "worst": float(worst)}


def generic(person: Row) -> float:
    """Accuracy of the full network as built."""
    return float(person["generic"]["exits"][-1]["accuracy"])


def severe(person: Row) -> bool:
    return float(person["clean"]) - generic(person) > SEVERE


# --- people -----------------------------------------------------------------------------------------------


def _people(people: dict[Any, Row]) -> dict[str, Any]:
    them = list(people.values())
    early = [person["generic"] for person in them]
    return {
        "count": len(them),
        "severe": sum(map(severe, them)),
        "clean": spread(person["clean"] for person in them),
        "generic": spread(map(generic, them)),
        "early": spread(figures["accuracy"] for figures in early),
        "full_ms": spread(figures["full_ms"] for figures in early),
        "faster": spread(figures["full_ms"] / figures["ms"] for figures in early),
        "shares": _shares(early),
        "calibration_error": _calibration(early),
        "curve": _curve(early),
    }


def _setting(samples: int, labels: float, rows: list[Row], people: dict[Any, Row]) -> dict[str, Any]:
    """One number of samples with one share of labels, over all users who have been there."""
    pairs = [(people[row["seed"], row["user"]], row) for row in rows]
    gains = [row["own"]["accuracy"] - generic(person) for person, row in pairs]
    own = [row["own"] for row in rows]

    def of(kind: bool) -> list[float]:
        return [gain for gain, (person, _) in zip(gains, pairs, strict=True) if severe(person) is kind]

    drops = [figures["exits"][-1]["accuracy"] - figures["accuracy"] for figures in own]
    return {
        "samples": samples,
        "labels": labels,
        "users": len(rows),
        "live": _share(row["live"] for row in rows),
        "accuracy": spread(figures["accuracy"] for figures in own),
        "gain": spread(gains),
        "severe": spread(of(True)),
        "mild": spread(of(False)),
        "below_full": _share(gain < HARM - 1e-9 for gain in gains),
        "below_built": _share(
            row["own"]["accuracy"] - person["generic"]["accuracy"] < HARM - 1e-9 for person, row in pairs
        ),
        **_latency(pairs),
        "shares": _shares(own),
        "calibration_error": _calibration(own),
        "drop_met": _share(drop <= MAX_DROP + 1e-9 for drop in drops),
        "curve": _curve(own),
    }


def _latency(pairs: list[tuple[Row, Row]]) -> dict[str, Any]:
    """Of (person, what they ended with). Who is less accurate than the full network must go on using that."""
    both = [(row["own"], row["own"]["accuracy"] >= generic(person)) for person, row in pairs]
    ratios = [figures["full_ms"] / figures["ms"] if enough else 1.0 for figures, enough in both]
    return {"faster": spread(ratios), "reached": _share(enough for _, enough in both)}


def _fast(rows: list[Row], people: dict[Any, Row]) -> dict[str, Any] | None:
    """Of heads whose early answers are only to be as good as the network as built."""
    pairs = [(people[row["seed"], row["user"]], row) for row in rows]
    gains = [row["own"]["accuracy"] - generic(person) for person, row in pairs]
    return {**_latency(pairs), "gain": spread(gains)} if pairs else None


def _share(facts: Iterable[bool]) -> float:
    return float(np.mean([bool(fact) for fact in facts]))


def _shares(rows: list[Row]) -> list[float]:
    return _per_exit(rows, lambda exits: np.mean([exit["share"] for exit in exits]))


def _calibration(rows: list[Row]) -> list[float]:
    """Of the images of all users together: of one user's there are too few."""
    return _per_exit(rows, lambda exits: calibration_error(np.sum([exit["bins"] for exit in exits], 0)))


def _per_exit(rows: list[Row], number: Callable[[list[Row]], Any]) -> list[float]:
    return [float(number(list(exits))) for exits in zip(*(row["exits"] for row in rows), strict=True)]


def _curve(rows: list[Row]) -> list[list[float]]:
    """Mean over users of (milliseconds, accuracy), threshold by threshold."""
    return [[float(value) for value in point] for point in np.mean([row["curve"] for row in rows], 0)] if rows else []


def _rows(done: dict[Any, Row], kind: str, samples: int, labels: float) -> list[Row]:
    return [row for key, row in done.items() if (key[0], *key[3:]) == (kind, samples, labels)]


# --- costs and baselines ----------------------------------------------------------------------------------


def _cost(done: dict[Any, Row]) -> dict[str, Any] | None:
    """Of users whose heads and whose whole network learnt, for the same number of epochs."""
    rows = [row for row in done.values() if row["kind"] == "cost"]
    if not rows:
        return None
    found: dict[str, Any] = {
        "users": len(rows),
        "seconds": spread(row["seconds"] for row in rows),
        "peak_bytes": spread(row["peak_bytes"] for row in rows),
        "of_inference": spread(row["peak_bytes"] / row["inference_peak_bytes"] for row in rows),
    }
    for kind in ("full", "no-cache"):
        pairs = [(row, done.get((kind, *_same(row)))) for row in rows]
        both = [(row, other) for row, other in pairs if other is not None]
        if both:
            found[kind] = {
                "users": len(both),
                "seconds": spread(other["seconds"] for _, other in both),
                "peak_bytes": spread(other["peak_bytes"] for _, other in both),
                "own_bytes": spread(other["peak_bytes"] - other["before_bytes"] for _, other in both),
                "times_faster": spread(other["seconds"] / row["seconds"] for row, other in both),
                "times_smaller": spread(other["peak_bytes"] / row["peak_bytes"] for row, other in both),
            }
    return found


def _same(row: Row) -> tuple[Any, ...]:
    return (row["seed"], row["user"], row["samples"], row["labels"])


def _baselines(done: dict[Any, Row], people: dict[Any, Row], plan: Plan) -> list[dict[str, Any]]:
    """Each beside the personalised heads of the same users, with the same samples, for every share of labels."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for labels in plan.labels:
        heads = {_same(row): row["own"] for row in _rows(done, "heads", plan.most, labels)}
        as_built = {key: people[key[:2]]["generic"] for key in heads}
        theirs = {name: {key: at(one) for key, one in as_built.items()} for name, at in AS_BUILT.items()}
        learnt = {kind: {_same(row): row for row in _rows(done, kind, plan.most, labels)} for kind in ("full", "hard")}
        theirs["full"] = {
            key: (row["accuracy"][-1], as_built[key]["full_ms"]) for key, row in learnt["full"].items() if key in heads
        }
        theirs["hard"] = {
            key: (row["own"]["accuracy"], row["own"]["ms"]) for key, row in learnt["hard"].items() if key in heads
        }
        for name, results in theirs.items():
            if results:
                found[name].append(
                    {"labels": labels, **_compared([heads[key] for key in results], list(results.values()))}
                )
    return [{"name": NAMES[name], "by_labels": rows} for name, rows in found.items() if rows]


def _compared(heads: list[Row], theirs: list[tuple[float, float]]) -> dict[str, Any]:
    """`theirs`: accuracy and mean milliseconds of the baseline, user by user."""
    differences = [own["accuracy"] - accuracy for own, (accuracy, _) in zip(heads, theirs, strict=True)]
    return {
        "users": len(heads),
        "accuracy": spread(accuracy for accuracy, _ in theirs),
        "ms": spread(ms for _, ms in theirs),
        "heads_accuracy": spread(own["accuracy"] for own in heads),
        "heads_ms": spread(own["ms"] for own in heads),
        "difference": spread(differences),  # the heads minus the baseline
        "wins": float(np.mean(differences)) < -1e-9,
    }
