"""What the command `study` prints: the paper's three numbers for one artifact, and what else was tried."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from perse_compile.console import console, say

Row = dict[str, Any]
Spread = dict[str, float] | None


def show_study(found: Row) -> None:
    """All of a summary; of one that has nobody in it only where it lies."""
    if found["people"]["count"]:
        show_people(found["people"])
        show_accuracy(found["settings"])
        show_latency(found)
        show_costs(found["cost"])
        show_baselines(found["baselines"])
    done, planned = found["trials"]["done"], found["trials"]["planned"]
    if found["interrupted"]:
        say(f"[yellow]stopped after {done} of {planned} trials; the same command goes on from there[/]")
    say(f"look at {escape(found['folder'])}/study.html; figures: study.json; every trial: study.jsonl")


def show_people(people: Row) -> None:
    count, harsh, right = people["count"], people["severe"], people["generic"]["mean"]
    say(f"{count} people, {harsh} of them severe: their camera costs the network more than 10 points.")
    say(f"The full network as built is right on {right:.1%} of their test images")
    say(f"({people['clean']['mean']:.1%} without their cameras).")


def show_accuracy(settings: list[Row]) -> None:
    say("\n[bold]1  Accuracy[/]: points gained over the full network as built")
    shown = narrow("learnt from", "mean", "best", "worst", "severe", "mild", "< full", "< built", "live")
    for row in settings:
        gain = row["gain"]
        ends = [points(gain, name) for name in ("best", "worst")]
        means = [points(row[name]) for name in ("severe", "mild")]
        shares = [f"{row[name]:.0%}" for name in ("below_full", "below_built", "live")]
        shown.add_row(learnt_from(row), f"{points(gain)} ±{100 * gain['spread']:.1f}", *ends, *means, *shares)
    console().print(shown)
    say("learnt from: images, and how many of them labelled. mean: ± standard deviation over people.")
    say("severe, mild: means of these people. < full, < built: who ended more than half a point under")
    say("the full network as built, or under it with its early exits as built; one test image may be")
    say("more. live: whose new heads passed the artifact's own check; the others keep the old ones.")


def show_latency(found: Row) -> None:
    people = found["people"]
    say("\n[bold]2  Latency[/]: times faster than the full network, at its accuracy or better")
    shown = narrow("learnt from", "mean", "best", "worst", "reach it", "gain")
    for row in found["settings"]:
        for name, one in ((learnt_from(row), row), ("  --against factory", row["fast"])):
            if one is not None:
                faster = one["faster"]
                mean, ends = (
                    f"{faster['mean']:.2f} ±{faster['spread']:.2f}",
                    [f"{faster[of]:.2f}" for of in ("best", "worst")],
                )
                shown.add_row(name, mean, *ends, f"{one['reached']:.0%}", points(one["gain"]))
    console().print(shown)
    say(f"Measured here; the full network takes {people['full_ms']['mean']:.2f} ms. reach it: people who get its")
    say("accuracy; the others count as 1. --against factory: early answers need only be as good as the network")
    say("as built, not as the person's own.\n")
    shown = narrow("learnt from", *found["exits"], "ECE", "drop met")
    for row in (people, *found["settings"]):
        shares = [f"{share:.0%}" for share in row["shares"]]
        met = f"{row['drop_met']:.0%}" if row is not people else ""
        who = learnt_from(row) if row is not people else "as built"
        shown.add_row(who, *shares, f"{max(row['calibration_error']):.3f}", met)
    console().print(shown)
    say("Share of images that each exit answers. ECE: expected calibration error of the worst exit.")
    say("drop met: people whose early answers cost at most 1 point against their own final exit.")


def show_costs(cost: Row | None) -> None:
    if cost is None:
        return
    say(f"\n[bold]3  Cost of learning[/]: 10 epochs, same machine, same threads; {people_in_words(cost['users'])}")
    shown = narrow("", "seconds", "times", "peak memory", "times")
    shown.add_row("heads, in the artifact", seconds(cost), "1", megabytes(cost), "1")
    for kind, name in (("no-cache", "heads without cache, PyTorch"), ("full", "whole network, PyTorch")):
        if kind in cost:
            row = cost[kind]
            times = [f"{row[name]['mean']:.1f}" for name in ("times_faster", "times_smaller")]
            shown.add_row(name, seconds(row), times[0], megabytes(row), times[1])
    console().print(shown)
    say(f"In the artifact, learning takes {cost['of_inference']['mean']:.2f} times the memory of answering.")
    if "full" in cost:
        own = cost["full"]["own_bytes"]["mean"] / 1e6
        say(f"Of PyTorch's memory {own:.0f} MB are for the network, the rest is PyTorch.")


def show_baselines(baselines: list[Row]) -> None:
    say("\n[bold]Beside other ways[/]: points that the heads are more accurate, by share of labels")
    shares = list(dict.fromkeys(row["labels"] for one in baselines for row in one["by_labels"]))
    shown = narrow("", "people", "ms", *(f"{share:.0%}" for share in shares))
    for one in baselines:
        rows = {row["labels"]: row for row in one["by_labels"]}
        first = one["by_labels"][0]
        differences = [points(rows[share]["difference"]) if share in rows else "" for share in shares]
        shown.add_row(one["name"], str(first["users"]), f"{first['ms']['mean']:.2f}", *differences)
    console().print(shown)
    say("The same people, samples and labels. ms: mean time of an answer.")
    for one in baselines:
        lost = [row for row in one["by_labels"] if row["wins"]]
        by = ", ".join(f"{-100 * row['difference']['mean']:.1f} points with {row['labels']:.0%} labels" for row in lost)
        if lost:
            say(f"[yellow]the heads lose to: {one['name']}, by {by} ({people_in_words(lost[0]['users'])})[/]")


# --- words ------------------------------------------------------------------------------------------------


def narrow(*columns: str) -> Table:
    """Names to the left, figures to the right, on 80 columns."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", overflow="fold")
    return made


def learnt_from(row: Row) -> str:
    return f"{row['samples']}, {row['labels']:.0%}"


def people_in_words(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def points(value: Spread, name: str = "mean") -> str:
    return "-" if value is None else f"{100 * value[name]:+.1f}"


def seconds(row: Row) -> str:
    return f"{row['seconds']['mean']:.2f} ±{row['seconds']['spread']:.2f}"


def megabytes(row: Row) -> str:
    return f"{row['peak_bytes']['mean'] / 1e6:.0f} MB"
