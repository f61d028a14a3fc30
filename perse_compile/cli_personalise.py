"""Commands by which an artifact becomes one person's own: personalise, estimate."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_options import ArtifactFolder, DeviceName, Json, Pack, Threads
from perse_compile.console import console, print_json, progress, say, table, warn
from perse_compile.errors import DataError


class Against(str, Enum):
    """What early answers are measured against."""

    final = "final"
    factory = "factory"


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    phone = "resnet50-arm64-android"
    for name, command, example in (
        ("personalise", personalise, f"personalise {phone} --data my-photos/ --device emulator"),
        ("estimate", estimate, f"estimate {phone} --images 300 --device emulator"),
    ):
        app.command(name, epilog=f"Example: perse-compile {example}")(command)


# --- commands ---------------------------------------------------------------------------------------------


def personalise(
    artifact: ArtifactFolder,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR|NPZ",
            help="The person's images: a folder with one sub-folder per class, or without (no labels), or an .npz.",
        ),
    ] = None,
    new_class: Annotated[
        list[str] | None,
        typer.Option(
            "--new-class",
            metavar="NAME",
            help="A class that the network never had, whose images lie in the sub-folder NAME; may be repeated.",
        ),
    ] = None,
    device: DeviceName = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many; training stops early.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Accuracy that early answers may lose: an aim, not a promise."),
    ] = None,
    against: Annotated[
        Against | None,
        typer.Option(
            help="What early answers must match: the person's own final exit or, for speed, the network as built."
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Of the mean answer, as a share of the full network's work, whatever accuracy that takes.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the split and the order of images.")] = None,
    threads: Threads = None,
    no_levels: Annotated[
        bool, typer.Option("--no-levels", help="Leave brightness, contrast and colours of the camera as they are.")
    ] = False,
    pack: Pack = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache", help="Keep the images' features beside the heads, and train on all that is kept there."
        ),
    ] = False,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="SIZE", help="Of the cache at most: 500kB, 2MB; 4MB by default.")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Back to the heads before the last change.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the heads as built.")] = False,
    json: Json = False,
) -> None:
    """Make an artifact one person's own: it trains its heads on their images, and keeps them if they are better."""
    if rollback or reset:
        result = driver.restore_heads(
            artifact, "rollback" if rollback else "reset", device=device, pack=pack, notice=warn
        )
        print_json(result) if json else say(
            f"{escape(heads_of(artifact, pack))}: {'the heads before' if rollback else 'factory heads'} are back"
        )
        return
    if data is None:
        raise DataError("nothing to learn from; give --data DIR, or --rollback, or --reset")
    options: dict[str, float | str | None] = {
        "epochs": epochs,
        "max-drop": max_drop,
        "max-cost": max_cost,
        "seed": seed,
    }
    options["against"] = None if against is None else against.value
    given = {name: str(value) for name, value in options.items() if value is not None}
    if no_levels:
        given["no-levels"] = ""
    if cache or budget is not None:
        given |= {"cache": "", **({"budget": budget} if budget is not None else {})}
    with progress() as tell:
        result = driver.personalise(
            artifact,
            data,
            device=device,
            threads=threads,
            pack=pack,
            new_classes=new_class or (),
            options=given,
            before=None if json else show_estimate,
            progress=tell,
            notice=warn,
        )
    print_json(result) if json else show_personalised(heads_of(artifact, pack), result, max_cost, new_class or [])


def estimate(
    artifact: ArtifactFolder,
    images: Annotated[int, typer.Option("--images", min=20, help="So many of the person's images.")] = 300,
    device: DeviceName = None,
    threads: Threads = None,
    pack: Pack = None,
    cache: Annotated[bool, typer.Option("--cache", help="They come to those that the cache has kept.")] = False,
    json: Json = False,
) -> None:
    """What personalising would take: seconds, core-seconds and memory, from a short probe of the device."""
    options = {"cache": ""} if cache else {}
    found = driver.estimate(artifact, images, device=device, threads=threads, pack=pack, options=options, notice=warn)
    print_json(found) if json else show_estimate(found)


# --- printing ---------------------------------------------------------------------------------------------


def heads_of(artifact: Path, pack: str | None) -> str:
    """The file that holds them."""
    return str(artifact / "heads.pack" if pack is None else artifact / "packs" / pack / "heads.pack")


def show_estimate(found: dict[str, Any]) -> None:
    say(
        f"{found['images']} images to see, {found['samples']} to learn from: about {found['seconds']:.1f} s,"
        f" at most {found['seconds_at_most']:.1f} s ({found['core_seconds']:.1f} to {found['core_seconds_at_most']:.1f}"
        f" core-seconds), {found['memory_bytes'] / 1e6:.0f} MB of memory"
    )


def show_personalised(heads: str, result: dict[str, Any], max_cost: float | None, new_classes: list[str]) -> None:
    samples, measure = result["samples"], "accuracy" if result["labelled"] else "agreement"
    shown = table("exit", f"{measure} before", "after", "share before", "after", "enabled")
    for exit in result["exits"]:
        shown.add_row(
            exit["name"], f"{exit['accuracy_before']:.1%}", f"{exit['accuracy_after']:.1%}",
            f"{exit['share_before']:.1%}", f"{exit['share_after']:.1%}", "yes" if exit["enabled"] else "no",
        )  # fmt: skip
    before, after = result["before"], result["after"]
    shown.add_section()
    shown.add_row("together", f"{before['accuracy']:.1%}", f"{after['accuracy']:.1%}")
    shown.add_row("mean cost", f"{before['cost']:.1%}", f"{after['cost']:.1%}")
    console().print(shown)
    if max_cost is not None and result["least_cost"] > max_cost + 1e-9:
        say(f"[yellow]a mean cost of {max_cost:.1%} cannot be had: the first exit alone costs more[/]")
    say(f"{samples['train']} images trained the heads; these figures are of {samples['judged']},")
    say(f"each judged by heads that did not learn from it; {result['seconds']:.1f} s")
    if samples.get("left_out"):  # no artifact of before knows it
        say(f"{samples['left_out']} left out: they are as from another camera, and the network cannot read them")
    say(f"teacher: {result['teacher']}")
    for name, share in zip(
        new_classes, result["recognised"][len(result["recognised"]) - len(new_classes) :], strict=True
    ):
        say(f"new class {escape(name)}: {share:.0%} of its labelled images recognised")
    if "cache" in result:
        kept = result["cache"]
        say(f"cache: {kept['samples']} images in {kept['bytes'] / 1e6:.2f} MB, room for {kept['room']}")
    if not result["labelled"]:
        say("no labels: agreement is with the teacher, not with the truth")
    say(camera_words(result["levels"]))
    colour = "green" if result["live"] else "yellow"
    say(f"[{colour}]{escape(result['verdict'])}[/]")
    if result["live"]:
        say(f"written: {escape(heads)}; --rollback undoes it")


def camera_words(levels: dict[str, Any]) -> str:
    """What became of the camera's brightness, contrast and colours."""
    if not levels["tried"]:
        return f"camera not corrected: {levels['why']}"
    before, after = levels["information_before"], levels["information_after"]
    verdict = (
        "corrected" if levels["live"] else "corrected for this training only" if levels["taken"] else "not corrected"
    )
    return f"camera {verdict}: an answer tells {before:.2f} nats as it is, {after:.2f} corrected"
