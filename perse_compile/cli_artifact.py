"""Commands on artifacts: evaluate, run, exits, packs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_options import ArtifactFolder, Data, DeviceName, Json, Pack, Threads
from perse_compile.console import console, print_json, progress, say, table, warn


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    heads = "resnet50-x86_64-linux"
    for name, command, example in (
        ("evaluate", evaluate, f"evaluate {heads} --data my-other-photos/"),
        ("run", run, f"run {heads} cat.jpg dog.jpg"),
        ("exits", exits, f"exits {heads} --disable exit0"),
        ("packs", packs, f"packs {heads}"),
    ):
        app.command(name, epilog=f"Example: perse-compile {example}")(command)


# --- commands ---------------------------------------------------------------------------------------------


def evaluate(
    artifact: ArtifactFolder,
    data: Data,
    device: DeviceName = None,
    threads: Threads = None,
    pack: Pack = None,
    json: Json = False,
) -> None:
    """Measure an artifact on labelled images: accuracy and share of every exit, cost, time."""
    with progress() as tell:
        result = driver.evaluate(artifact, data, device=device, threads=threads, pack=pack, progress=tell, notice=warn)
    if json:
        print_json(result)
        return
    shown = table("exit", "accuracy", "share of images", "enabled")
    for exit in result["exits"]:
        shown.add_row(
            exit["name"], f"{exit['accuracy']:.1%}", f"{exit['share']:.1%}", "yes" if exit["enabled"] else "no"
        )
    console().print(shown)
    say(
        f"{result['samples']} images: accuracy {result['accuracy']:.1%} at {result['cost']:.1%} of the work,"
        f" {result['ms_mean']:.2f} ms an image"
    )


def run(
    artifact: ArtifactFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG, ...")],
    device: DeviceName = None,
    threads: Threads = None,
    pack: Pack = None,
    json: Json = False,
) -> None:
    """Classify pictures: class, exit taken, confidence, time."""
    with progress() as tell:
        results = driver.run(artifact, images, device=device, threads=threads, pack=pack, progress=tell, notice=warn)
    if json:
        print_json({"results": results})
        return
    shown = table("image", "class", "exit", "confidence", "ms")
    for result in results:
        shown.add_row(
            escape(result["image"]),
            escape(result["name"]),
            result["exit_name"],
            f"{result['confidence']:.1%}",
            f"{result['ms']:.2f}",
        )
    console().print(shown)


def packs(artifact: ArtifactFolder, device: DeviceName = None, json: Json = False) -> None:
    """List the packs of an artifact: heads for several people or places."""
    found = driver.packs(artifact, device=device, notice=warn)
    if json:
        print_json({"packs": found})
        return
    shown = table("pack", "heads", "changes", "new classes")
    for pack in found:
        state = "damaged" if not pack["sound"] else "personalised" if pack["generation"] else "factory"
        name, new = escape(pack["name"]) or "(the artifact's own)", escape(", ".join(pack["new_classes"]))
        shown.add_row(name, state, str(pack["generation"]), new)
    console().print(shown)


def exits(
    artifact: ArtifactFolder,
    enable: Annotated[str | None, typer.Option("--enable", metavar="EXIT", help="Ask it again.")] = None,
    disable: Annotated[str | None, typer.Option("--disable", metavar="EXIT", help="Ask it no more.")] = None,
    device: DeviceName = None,
    pack: Pack = None,
    json: Json = False,
) -> None:
    """What every exit costs on the device, and the worst case; switch one on or off by name."""
    found = driver.exits(artifact, enable=enable, disable=disable, device=device, pack=pack, notice=warn)
    if json:
        print_json(found)
        return
    shown = table("exit", "enabled", "stage ms", "head ms")
    for exit in found["exits"]:
        enabled = "yes" if exit["enabled"] else "no"
        shown.add_row(exit["name"], enabled, f"{exit['stage_ms']:.3f}", f"{exit['head_ms']:.3f}")
    console().print(shown)
    say(f"full network {found['full_ms']:.3f} ms; with these exits at worst {found['worst_ms']:.3f} ms")
