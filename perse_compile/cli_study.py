"""The command `study`: many simulated people on one artifact, and what it was worth to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_artifact import ArtifactFolder, Data, Json
from perse_compile.cli_tune import INTERRUPTED
from perse_compile.console import console, print_json, progress, say, table
from perse_compile.errors import DataError

EPILOG = "Example: perse-compile study fashion_shufflenet-x86_64-linux --data photos/ --users 20"


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("study", epilog=EPILOG)(study)


def study(
    artifact: ArtifactFolder,
    data: Data,
    users: Annotated[int, typer.Option(min=1, help="People per seed; each gets images that nobody else has.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Draw the people so many times anew.")] = 3,
    samples: Annotated[
        str, typer.Option(metavar="N,N,...", help="Images that a person learns from; the most with every --labels.")
    ] = "300,100,30",
    labels: Annotated[
        str, typer.Option(metavar="%,%,...", help="Percentage of those images that are labelled.")
    ] = "100,50,10,5,0",
    test: Annotated[int, typer.Option(min=10, help="Other images of a person, that measure.")] = 150,
    population: Annotated[
        str,
        typer.Option(
            metavar="report|development",
            help="Kinds of people: choose settings on `development`, report figures of `report`.",
        ),
    ] = "report",
    baselines: Annotated[
        str, typer.Option(metavar="NAME,...|none", help="Of full, no-cache (both in PyTorch) and hard.")
    ] = "full,no-cache,hard",
    baseline_users: Annotated[
        int, typer.Option(min=0, help="People of the first seed that costs and baselines are measured on.")
    ] = 5,
    program: Annotated[
        Path | None,
        typer.Option(
            metavar="PROGRAM",
            help="The .perse file that the artifact was built from, for PyTorch; by default it is looked for beside the"
            " artifact and in this folder.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Of the artifact's runtime and of PyTorch.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Where results go; study-ARTIFACT here by default."),
    ] = None,
    json: Json = False,
) -> None:
    """Try an artifact on many simulated people: how much more accurate and faster it gets, and at what cost.

    Each person meets a few of the classes, through a camera of their own (dark, tilted, noisy, ...), and has some
    images, of which some are labelled. The artifact's heads learn from them as `personalise` does, always from the
    heads as built; the artifact itself stays as it is. Needs labelled images that the network never saw: 450 per
    person. Results are kept as they come: after Ctrl-C the same command goes on where it stopped.
    """
    with progress() as tell:
        found = driver.study(
            artifact,
            data,
            output=output,
            program=program,
            progress=tell,
            population=population,
            users=users,
            seeds=seeds,
            samples=tuple(numbers(samples, "--samples")),
            labels=tuple(percent / 100 for percent in numbers(labels, "--labels")),
            test=test,
            baselines=() if baselines == "none" else tuple(name.strip() for name in baselines.split(",")),
            baseline_users=baseline_users,
            threads=threads,
        )
    print_json(found) if json else show(found)
    if found["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def numbers(text: str, option: str) -> list[int]:
    """300,100,30"""
    parts = [part.strip().rstrip("%") for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise DataError(f"{option} {text!r} is not a list of numbers; give some, separated by commas")
    return [int(part) for part in parts]


# --- printing ---------------------------------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    people = found["people"]
    if people["count"]:
        show_accuracy(found)
        show_latency(found)
        show_costs(found)
        show_baselines(found)
    done, planned = found["trials"]["done"], found["trials"]["planned"]
    if found["interrupted"]:
        say(f"[yellow]stopped after {done} of {planned} trials; the same command goes on from there[/]")
    say(f"written: {escape(found['folder'])}/study.html, to look at; study.json; study.jsonl, one line per trial")


def show_accuracy(found: dict[str, Any]) -> None:
    people = found["people"]
    say(
        f"{people['count']} people, {people['severe']} of them with a severe shift. The full network as built:"
        f" {people['generic']['mean']:.1%} of their test images right, {people['clean']['mean']:.1%} without their cameras."
    )
    say("\n[bold]1  Accuracy[/]: points gained over the full network as built")
    shown = table("samples", "labelled", "mean", "spread", "best", "worst", "severe", "mild", "harmed", "in use")
    for row in found["settings"]:
        gain = row["gain"]
        shown.add_row(
            str(row["samples"]), f"{row['labels']:.0%}", points(gain), f"{100 * gain['spread']:.1f}", points(gain, "best"),
            points(gain, "worst"), points(row["severe"]), points(row["mild"]), f"{row['harmed']:.0%}", f"{row['live']:.0%}",
        )  # fmt: skip
    console().print(shown)
    say(
        "severe, mild: means; severe is who loses more than 10 points to their camera. harmed: people who lost more than"
    )
    say(
        "half a point; one test image may be more than that. in use: people whose new heads passed the artifact's gate."
    )


def show_latency(found: dict[str, Any]) -> None:
    people, exits = found["people"], found["exits"]
    say("\n[bold]2  Latency[/]: times faster than the full network, at its accuracy or better")
    shown = table("samples", "labelled", "mean", "spread", "best", "worst", "reach it", *exits, "ECE", "drop met")
    shares = [f"{share:.0%}" for share in people["shares"]]
    shown.add_row("as built", "", "", "", "", "", "", *shares, f"{max(people['calibration_error']):.3f}", "")
    for row in found["settings"]:
        faster = [f"{row['faster'][name]:.2f}" for name in ("mean", "spread", "best", "worst")]
        shares = [f"{share:.0%}" for share in row["shares"]]
        shown.add_row(
            str(row["samples"]), f"{row['labels']:.0%}", *faster, f"{row['reached']:.0%}", *shares,
            f"{max(row['calibration_error']):.3f}", f"{row['drop_met']:.0%}",
        )  # fmt: skip
    console().print(shown)
    say(
        f"Measured here; the full network takes {found['full_ms']:.2f} ms. Who does not reach its accuracy counts as 1."
    )
    say(
        f"{', '.join(exits)}: share of images that exit answers. ECE: expected calibration error of the worst exit. drop"
    )
    say("met: people whose early answers cost at most 1 point against their own final exit, on test images.")


def show_costs(found: dict[str, Any]) -> None:
    cost = found["cost"]
    if cost is None:
        return
    say(f"\n[bold]3  Cost of learning[/]: 10 epochs, the same machine and threads, {cost['users']} people")
    shown = table("", "seconds", "spread", "times as long", "peak memory", "times as much")
    shown.add_row("heads, in the artifact", seconds(cost), f"{cost['seconds']['spread']:.2f}", "1", memory(cost), "1")
    names = {"no-cache": "heads without cache, PyTorch", "full": "whole network, PyTorch"}
    for kind, name in names.items():
        if kind in cost:
            row = cost[kind]
            shown.add_row(
                name, seconds(row), f"{row['seconds']['spread']:.2f}", f"{row['times_faster']['mean']:.1f}", memory(row),
                f"{row['times_smaller']['mean']:.1f}",
            )  # fmt: skip
    console().print(shown)
    say(f"In the artifact, learning takes {cost['of_inference']['mean']:.2f} times the memory of answering.")
    if "full" in cost:
        say(
            f"Of PyTorch's memory {cost['full']['own_bytes']['mean'] / 1e6:.0f} MB come on top of importing it (whole network)."
        )


def show_baselines(found: dict[str, Any]) -> None:
    rows = found["baselines"]
    say(
        "\n[bold]Beside other ways[/]: the same people, samples and labels; accuracy and mean ms, theirs and the heads'"
    )
    shown = table("", "labelled", "people", "accuracy", "heads", "ms", "heads")
    for row in rows:
        shown.add_row(
            row["name"], f"{row['labels']:.0%}", str(row["users"]), f"{row['accuracy']['mean']:.1%}",
            f"{row['heads_accuracy']['mean']:.1%}", f"{row['ms']['mean']:.2f}", f"{row['heads_ms']['mean']:.2f}",
        )  # fmt: skip
    console().print(shown)
    for row in rows:
        if row["wins"]:
            say(
                f"[yellow]more accurate than the heads by {-100 * row['difference']['mean']:.1f} points with"
                f" {row['labels']:.0%} labels: {row['name']}[/]"
            )


def points(value: dict[str, float] | None, name: str = "mean") -> str:
    return "-" if value is None else f"{100 * value[name]:+.1f}"


def seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']['mean']:.2f}"


def memory(row: dict[str, Any]) -> str:
    return f"{row['peak_bytes']['mean'] / 1e6:.0f} MB"
