"""The command `study`: many simulated people on one artifact, and what it was worth to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perse_compile import driver
from perse_compile.cli_options import ArtifactFolder, Data, Json
from perse_compile.cli_study_tables import show_study
from perse_compile.cli_tune import INTERRUPTED
from perse_compile.console import print_json, progress, warn
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

    Each person meets a few of the classes, through a camera of their own
    (dark, tilted, noisy, ...), and has some images, of which some are labelled.
    The artifact's heads learn from them as `personalise` does, always from the
    heads as built; the artifact itself stays as it is.

    Needs labelled images that the network never saw: 450 per person. Results are
    kept as they come: after Ctrl-C the same command goes on where it stopped.
    """
    with progress() as tell:
        found = driver.study(
            artifact,
            data,
            output=output,
            program=program,
            progress=tell,
            notice=warn,
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
    print_json(found) if json else show_study(found)
    if found["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def numbers(text: str, option: str) -> list[int]:
    """300,100,30"""
    parts = [part.strip().rstrip("%") for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise DataError(f"{option} {text!r} is not a list of numbers; give some, separated by commas")
    return [int(part) for part in parts]
