"""Commands on devices: push, bench; and doctor, on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_options import ArtifactFolder, DeviceName, Json, Threads
from perse_compile.console import console, print_json, progress, say, table, warn

PushTo = Annotated[str, typer.Option("--device", metavar="DEVICE", help="ssh://USER@HOST:PORT, adb or adb:SERIAL.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for name, command, example in (
        ("push", push, "push resnet50-arm64-android --device adb"),
        ("bench", bench, "bench resnet50-raspberry-pi-4 --device ssh://pi@raspberrypi"),
        ("doctor", doctor, "doctor"),
    ):
        app.command(name, epilog=f"Example: perse-compile {example}")(command)


def push(artifact: ArtifactFolder, device: PushTo, json: Json = False) -> None:
    """Put an artifact onto a device, to run it there without this machine; only what changed is sent."""
    with progress() as tell:
        result = driver.push(artifact, device, progress=tell, notice=warn)
    if json:
        print_json(result)
        return
    say(f"{escape(str(artifact))} lies on {escape(result['device'])} in {escape(result['folder'])}; there,")
    say(f"  {escape(result['run'])} info")
    say("tells what it is, and --help what it can do")


def bench(artifact: ArtifactFolder, device: DeviceName = None, threads: Threads = None, json: Json = False) -> None:
    """Time every exit of an artifact on a device, by the artifact's own executable."""
    with progress() as tell:
        result = driver.bench(artifact, device=device, threads=threads, progress=tell, notice=warn)
    if result["kind"] == "emulator":
        warn("times under the emulator say nothing of any device's speed, not even which exit is the faster")
    print_json(result) if json else show_times(result)


def doctor(json: Json = False) -> None:
    """Check this machine: what is installed, what is missing, and how to get it."""
    findings = driver.examine()
    if json:
        print_json({"findings": findings})
    else:
        shown = table("", "found", "what to do")
        shown.columns[1].justify = shown.columns[2].justify = "left"
        for finding in findings:
            mark = "[green]✓[/]" if finding["fine"] else "[red]✗[/]"
            shown.add_row(f"{mark} {escape(finding['what'])}", escape(finding["found"]), escape(finding["advice"]))
        console().print(shown)
    if not all(finding["fine"] for finding in findings):
        raise typer.Exit(1)


def show_times(result: dict[str, Any]) -> None:
    shown = table("exit", "ms until its answer", "half of the runs", "stage", "head")
    for exit, stage, head in zip(result["exits"], result["stages"], result["heads"], strict=True):
        shown.add_row(
            exit["name"], f"{exit['ms']:.3f}", f"{exit['low']:.3f} to {exit['high']:.3f}", f"{stage['ms']:.3f}",
            f"{head['ms']:.3f}",
        )  # fmt: skip
    console().print(shown)
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    say(f"medians of {result['runs']} runs on {escape(result['device'])}, {threads}")
