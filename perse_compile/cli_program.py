"""Commands on programs: train-exits, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_options import Data, Database, Json
from perse_compile.cli_tune import INTERRUPTED, live, show
from perse_compile.console import console, print_json, progress, say, steps, table, warn
from perse_compile.devices import EMULATOR_HINT


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for name, command, example in (
        ("train-exits", train_exits, "train-exits resnet50.perse --data photos/"),
        ("build", build, "build --target arm64-android"),
    ):
        app.command(name, epilog=f"Example: perse-compile {example}")(command)


# --- commands ---------------------------------------------------------------------------------------------


def train_exits(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="A .perse file; it is rewritten.")],
    data: Data,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 60,
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="Accuracy that early answers may lose: an aim, not a promise.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the order of images.")] = 0,
    final: Annotated[bool, typer.Option("--final", help="Train the network's own classifier as well.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write here instead.")] = None,
    json: Json = False,
) -> None:
    """Train the exits on this machine; the network itself stays as it is."""
    with progress() as tell:
        report, path = driver.train_exits(
            program,
            data,
            epochs=epochs,
            max_drop=max_drop,
            seed=seed,
            final=final,
            output=output,
            progress=tell,
            notice=warn,
        )
    if json:
        print_json({"program": str(path), **report.as_dict()})
        return
    shown = table("exit", "cost", f"{report.measure} before", "after", "share", "threshold", "temperature")
    for row in report.rows:
        last = row.name == report.rows[-1].name
        threshold = "always" if last else f"{row.threshold:.3f}" if row.enabled else "off"
        shown.add_row(
            row.name,
            f"{row.cost:.1%}",
            f"{row.before:.1%}",
            f"{row.after:.1%}",
            f"{row.share:.1%}",
            threshold,
            f"{row.temperature:.3f}",
        )
    console().print(shown)
    say(f"{report.held_out} images set aside: {report.measure} {report.full:.1%} at the final exit,")
    say(f"with early exits {report.early:.1%} at {report.cost:.1%} of the work. Written: {escape(str(path))}")


def build(
    program: Annotated[
        Path | None,
        typer.Argument(metavar="[PROGRAM]", help="A .perse file; may be left out when one lies in this folder."),
    ] = None,
    target: Annotated[str, typer.Option(metavar="NAME|TOML|native", help="A device; `targets` lists them.")] = ...,  # type: ignore[assignment]
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Artifact folder; PROGRAM-TARGET here by default.")
    ] = None,
    database: Database = None,
    tune: Annotated[
        int | None, typer.Option("--tune", min=1, help="First measure so many candidates, on the best device at hand.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an artifact even if it holds personalised heads.")
    ] = False,
    json: Json = False,
) -> None:
    """Compile a program for a device: writes an artifact folder, verified against PyTorch."""
    if tune is not None:
        with live(tune, None) as follow:
            found = driver.tune(program, target, trials=tune, database=database, follow=follow)
        if not json:
            show(found)
        if found["interrupted"]:
            raise typer.Exit(INTERRUPTED)
    with steps() as doing:
        built = driver.build(program, target, output=output, database=database, force=force, say=doing, notice=warn)
    folder, fields = built.artifact.folder, built.artifact.manifest
    sizes = {name: entry["bytes"] for name, entry in fields["files"].items()}
    if built.selftest is None:
        warn(
            f"not verified: nothing here runs {fields['target']['machine']} executables."
            f" For the emulator, {EMULATOR_HINT} and build again; or run `./perse selftest` on the device."
        )
    if json:
        print_json(
            {
                "artifact": str(folder),
                "target": fields["target"]["name"],
                "bytes": sizes,
                "verified_on": built.device,
                "selftest": built.selftest,
            }
        )
        return
    if built.selftest is not None:
        shown = table("exit", "difference to PyTorch", "stages run")
        for exit in built.selftest["exits"]:
            shown.add_row(exit["name"], f"{exit['max_rel_diff']:.1e}", str(exit["stages"]))
        console().print(shown)
        where = "under the emulator" if built.device == "emulator" else "on this machine"
        say(f"verified {where}: a confident exit 0 runs 1 of {len(fields['exits'])} stages")
    say(
        f"{escape(str(folder))}: perse {sizes['perse'] / 1e3:.0f} KB, backbone.bin {sizes['backbone.bin'] / 1e6:.1f} MB"
    )
    say(f"look at {escape(str(folder))}/report.html")
