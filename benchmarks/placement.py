"""Searched places of exits against evenly spaced ones, on images that nothing saw.

    python benchmarks/placement.py [--seeds N] [--first N] [--exits N] [--json] [--plot FILE]

The bundled network and its 3,000 images (examples/README.md). Both sides have the same heads, records, costs,
thresholds to choose from, number of exits and exact search; one may put its exits at any candidate, the other only
where the MACs come nearest to 1/(n+1), 2/(n+1), ... of the network's, for n from 1 to the most. Needs Fashion-MNIST's
10,000 test images (apt-get install dataset-fashion-mnist), which neither the backbone, the heads nor the search saw.

For every budget of the cost, from the least that evenly spaced exits can do to the whole network, in steps of 1 %, each
side takes its most accurate cascade that costs no more in the search.
  searched on   difference of accuracy on the images of the search, in points: least, mean, greatest over the budgets
  fresh         the same cascades on the test images, with the standard error of the least one
Exit status 1 when an evenly spaced cascade is better on the images of the search, which the search rules out, or surely
better on fresh ones: by more than 3 standard errors at any budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from perse_compile.passes import analysis_pipeline
from perse_compile.personalise.calibrate import softmax
from perse_compile.personalise.data import fit, read_images
from perse_compile.pipeline import run
from perse_compile.placement.candidates import candidates
from perse_compile.placement.costs import Costs, by_macs
from perse_compile.placement.features import extract, with_exits_everywhere
from perse_compile.placement.place import EXITS
from perse_compile.placement.records import Answers, Records, record
from perse_compile.placement.search import search
from perse_compile.placement.split import split
from perse_compile.study.chart import Line, chart
from perse_compile.trace import trace_model

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import fashion_mnist  # noqa: E402

SURELY = 3.0  # standard errors
STEP = 0.01  # of the budget


@dataclass(frozen=True)
class Cascade:
    """In the search, and on images that nothing saw."""

    cost: float
    accuracy: float
    taps: list[str]
    fresh_cost: float
    fresh_right: NDArray[np.bool_]  # image by image


def fresh_answers(records: Records, features: list[Any], final: torch.Tensor, labels: NDArray[np.int64]) -> Answers:
    """Of the heads that all images of the search trained."""
    logits = [
        head(torch.from_numpy(x.astype(np.float32))).numpy() for head, x in zip(records.heads, features, strict=True)
    ]
    logits.append(final.numpy())
    sure = [softmax(z, t).max(1) for z, t in zip(logits, records.temperatures, strict=True)]
    return Answers(np.array(sure), np.array([z.argmax(1) == labels for z in logits]))


def cascades(
    places: list[int], most: int, taps: list[str], costs: Costs, seen: Answers, fresh: Answers, grid: int
) -> list[Cascade]:
    """The front of a search among some of the candidates."""
    own = Costs(costs.backbone[places], costs.heads[places], costs.source)
    found = search(Answers(seen.sure[[*places, -1]], seen.right[[*places, -1]]), own, most, grid=grid)
    made = []
    for chain, right, cost in zip(found.chains, found.right, found.costs, strict=True):
        exits = [(places[found.options.candidate[o]], float(found.options.threshold[o])) for o in chain]
        left = np.ones(fresh.right.shape[1], bool)
        answered, spent = fresh.right[-1].copy(), np.zeros(len(left))
        for place, threshold in exits:
            spent[left] += costs.heads[place]
            taken = left & (fresh.sure[place] >= threshold)
            answered[taken] = fresh.right[place][taken]
            spent[taken] += costs.backbone[place]
            left &= ~taken
        spent[left] += 1
        accuracy = right / seen.right.shape[1]
        made.append(Cascade(cost, accuracy, [taps[place] for place, _ in exits], float(spent.mean()), answered))
    return made


def evenly(shares: NDArray[np.float64], count: int) -> list[int]:
    return sorted({int(np.abs(shares - (i + 1) / (count + 1)).argmin()) for i in range(count)})


def best(front: list[Cascade], budget: float) -> Cascade | None:
    return max((c for c in front if c.cost <= budget + 1e-9), key=lambda c: (c.accuracy, -c.cost), default=None)


def compare(ours: list[Cascade], even: list[Cascade]) -> list[dict[str, float]]:
    """Budget by budget."""
    rows = []
    for step in range(1, round(1 / STEP) + 1):
        a, b = best(ours, step * STEP), best(even, step * STEP)
        if a is None or b is None:
            continue
        better = a.fresh_right.astype(float) - b.fresh_right
        rows.append(
            {
                "budget": step * STEP,
                "searched_on": a.accuracy,
                "searched_on_even": b.accuracy,
                "fresh": float(a.fresh_right.mean()),
                "fresh_even": float(b.fresh_right.mean()),
                "fresh_cost": a.fresh_cost,
                "fresh_cost_even": b.fresh_cost,
                "error": float(better.std() / len(better) ** 0.5),
            }
        )
    return rows


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    there = [100 * (row["searched_on"] - row["searched_on_even"]) for row in rows]
    fresh = [100 * (row["fresh"] - row["fresh_even"]) for row in rows]
    least = int(np.argmin(fresh))
    errors = [row["error"] for row in rows]
    surely = [
        row["budget"] for row, gain in zip(rows, fresh, strict=True) if gain < -100 * SURELY * row["error"] - 1e-9
    ]
    return {
        "searched_on": [min(there), float(np.mean(there)), max(there)],
        "fresh": [fresh[least], float(np.mean(fresh)), max(fresh)],
        "least_at": rows[least]["budget"],
        "error_of_least": 100 * errors[least],
        "surely_worse_at": surely,
    }


def vars_of(costs: Costs) -> dict[str, Any]:
    return {"backbone": costs.backbone, "heads": costs.heads}


def lines(told: dict[str, Any]) -> str:
    """Of one seed."""
    rows = []
    for where in ("searched_on", "fresh"):
        least, mean, most = told[where]
        rows.append(f"seed {told['seed']}, {where}: least {least:+.2f}, mean {mean:+.2f}, greatest {most:+.2f} points")
    error = f"standard error {told['error_of_least']:.2f}"
    surely = [f"  evenly spaced surely better at {budget:.0%}" for budget in told["surely_worse_at"]]
    return "\n".join([*rows, f"  least on fresh images at a budget of {told['least_at']:.0%}, {error}", *surely])


HEADS = ("budget", "searched on", "evenly spaced", "fresh", "evenly spaced", "cost there", "evenly spaced")


def table(seeds: list[list[dict[str, float]]]) -> str:
    """Means over the seeds, for budgets that both sides can meet with every seed."""
    common = sorted(set.intersection(*({round(row["budget"], 9) for row in rows} for rows in seeds)))
    told = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for budget in common:
        percent = round(100 * budget)
        if percent % (10 if percent > 50 else 3):
            continue
        found = [row for rows in seeds for row in rows if round(row["budget"], 9) == budget]
        keys = ("searched_on", "searched_on_even", "fresh", "fresh_even", "fresh_cost", "fresh_cost_even")
        means = [f"{np.mean([row[key] for row in found]):.2%}".replace("%", " %") for key in keys]
        told.append(f"| {budget:.0%} | {' | '.join(means)} |".replace("% |", " % |", 1))
    return "\n".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="of the split into folds and report, and of the heads")
    parser.add_argument("--first", type=int, default=0, help="of the seeds")
    parser.add_argument("--exits", type=int, default=EXITS)
    parser.add_argument("--grid", type=int, default=None, help="thresholds of each exit; by default as --place")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="the first seed's curves on fresh images, as the inside of a page")
    parser.add_argument("--keep", type=Path, help="a folder for the records, to look at other grids without training")
    options = parser.parse_args()
    start = time.monotonic()
    weights = str(EXAMPLES / "fashion_mnist_shufflenet.safetensors")
    program = run(trace_model("model:fashion_shufflenet", weights, None, None), analysis_pipeline())
    images = read_images(EXAMPLES / "fashion_mnist_train.npz", program.input, program.classes)
    assert images.labels is not None
    cuts = candidates(program)
    probe = with_exits_everywhere(program, cuts)
    taps, costs = [cut.node for cut in cuts], by_macs(cuts, probe.exits, len(program.classes))
    pictures, truth = fashion_mnist.read("t10k")
    fresh_pixels = np.stack([fit(Image.fromarray(picture), program.input) for picture in pictures])
    features, final = extract(probe, images.pixels, lambda done, total: None)
    fresh_features, fresh_final = extract(probe, fresh_pixels, lambda done, total: None)
    results = []
    for seed in range(options.first, options.first + options.seeds):
        divided = split(images.labels, seed)
        records = record(probe.exits, features, final, images.labels, divided, seed, lambda done, total: None)
        fresh = fresh_answers(records, fresh_features, fresh_final, truth)
        if options.keep:
            seen = {"sure": records.search.sure, "right": records.search.right}
            fresh_seen = {"fresh_sure": fresh.sure, "fresh_right": fresh.right}
            np.savez(options.keep / f"records{seed}.npz", **seen, **fresh_seen, **vars_of(costs))
        ours = cascades([*range(len(cuts))], options.exits, taps, costs, records.search, fresh, options.grid)
        even = [
            cascade
            for count in range(1, options.exits + 1)
            for cascade in cascades(
                evenly(costs.backbone, count), count, taps, costs, records.search, fresh, options.grid
            )
        ]
        rows = compare(ours, even)
        results.append({"seed": seed, **summary(rows), "full": float(fresh.right[-1].mean()), "budgets": rows})
        if options.plot and seed == options.first:
            curves = [
                Line(name, sorted((100 * c.fresh_cost, 100 * float(c.fresh_right.mean())) for c in front))
                for name, front in (("searched", ours), ("evenly spaced", even))
            ]
            options.plot.write_text(chart(curves, "mean cost on fresh images, % of the full network", "accuracy, %"))
        if not options.json:
            print(lines(results[-1]), flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(table([result["budgets"] for result in results]))
        print(f"{time.monotonic() - start:.0f} s")
    if any(told["searched_on"][0] < -1e-9 or told["surely_worse_at"] for told in results):
        raise SystemExit("evenly spaced exits are better somewhere")


if __name__ == "__main__":
    main()
