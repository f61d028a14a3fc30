"""Commands on artifacts and devices: build, personalise, evaluate, run, targets, doctor; and train-exits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.console import console, print_json, progress, say, steps, table, warn
from perse_compile.errors import DataError

Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Data = Annotated[
    Path,
    typer.Option(metavar="DIR|NPZ", help="Folder with one sub-folder per class, a flat folder (no labels), or an .npz."),
]
ArtifactFolder = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The folder that `build` wrote.")]
DeviceName = Annotated[
    str | None, typer.Option("--device", metavar="local|emulator", help="Where the artifact runs; this machine by default.")
]
Threads = Annotated[int, typer.Option(min=1, max=64, help="Threads of the artifact's runtime.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for name, command in (
        ("train-exits", train_exits),
        ("build", build),
        ("personalise", personalise),
        ("evaluate", evaluate),
        ("run", run),
        ("targets", targets),
        ("doctor", doctor),
    ):
        app.command(name)(command)


# --- commands ---------------------------------------------------------------------------------------------


def train_exits(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="A .perse file; it is rewritten.")],
    data: Data,
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="Accuracy that early answers may lose, aimed at on a calibration slice.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    final: Annotated[bool, typer.Option("--final", help="Train the network's own classifier as well.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write here instead.")] = None,
    json: Json = False,
) -> None:
    """Train the exits of a program on the host: heads only, the backbone stays as it is."""
    with progress() as tell:
        report, path = driver.train_exits(program, data, epochs=epochs, max_drop=max_drop, seed=seed, final=final, output=output, progress=tell)
    if json:
        print_json({"program": str(path), **report.as_dict()})
        return
    shown = table("exit", "cost", f"{report.measure} before", "after", "answers", "threshold", "temperature")
    for row in report.rows:
        last = row.name == report.rows[-1].name
        threshold = "always" if last else f"{row.threshold:.3f}" if row.enabled else "off"
        shown.add_row(row.name, f"{row.cost:.1%}", f"{row.before:.1%}", f"{row.after:.1%}", f"{row.share:.1%}", threshold, f"{row.temperature:.3f}")
    console().print(shown)
    say(
        f"{escape(str(path))}: on {report.held_out} held-out images the final exit has {report.measure} {report.full:.1%},"
        f" with early exits {report.early:.1%} at {report.cost:.1%} of the work"
    )


def build(
    program: Annotated[
        Path | None, typer.Argument(metavar="[PROGRAM]", help="A .perse file; may be left out when one lies in this folder.")
    ] = None,
    target: Annotated[str, typer.Option(metavar="NAME|TOML", help="A device; `targets` lists them.")] = ...,  # type: ignore[assignment]
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Artifact folder; PROGRAM-TARGET here by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an artifact even if it holds personalised heads.")] = False,
    json: Json = False,
) -> None:
    """Compile a program into a self-contained artifact for a device, and verify it against PyTorch."""
    with steps() as doing:
        built = driver.build(program, target, output=output, force=force, say=doing)
    folder, fields = built.artifact.folder, built.artifact.manifest
    sizes = {name: entry["bytes"] for name, entry in fields["files"].items()}
    if json:
        print_json({"artifact": str(folder), "target": fields["target"]["name"], "bytes": sizes, "verified_on": built.device, "selftest": built.selftest})
        return
    if built.selftest is None:
        emulator = fields["target"]["emulator"]
        warn(f"not verified: nothing here runs {fields['target']['machine']} executables. Install {emulator} and build again, or run `./perse selftest` on the device.")
    else:
        shown = table("exit", "difference to PyTorch", "stages run when forced")
        for exit in built.selftest["exits"]:
            shown.add_row(exit["name"], f"{exit['max_rel_diff']:.1e}", str(exit["stages"]))
        console().print(shown)
        say(f"verified {'under the emulator' if built.device == 'emulator' else 'on this machine'}: a confident exit 0 runs 1 of {len(fields['exits'])} stages")
    say(f"{escape(str(folder))}/perse: {sizes['perse'] / 1e3:.0f} KB, weights {sizes['backbone.bin'] / 1e6:.1f} MB; look at {escape(str(folder))}/report.html")


def personalise(
    artifact: ArtifactFolder,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR|NPZ", help="The person's images: a folder with one sub-folder per class, a flat folder (no labels), or an .npz.")] = None,
    device: DeviceName = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many; training stops early.")] = None,
    max_drop: Annotated[float | None, typer.Option(min=0, max=1, help="Accuracy that early answers may lose, aimed at on a calibration slice.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    threads: Threads = 1,
    rollback: Annotated[bool, typer.Option("--rollback", help="Back to the heads before the last change.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the heads as built.")] = False,
    json: Json = False,
) -> None:
    """Train an artifact's heads on one person's images, with its own trainer; better heads go live, others do not."""
    if rollback or reset:
        result = driver.restore_heads(artifact, "rollback" if rollback else "reset", device=device)
        print_json(result) if json else say(f"{escape(str(artifact))}/heads.pack: {'the heads before' if rollback else 'factory heads'} are back")
        return
    if data is None:
        raise DataError("nothing to learn from; give --data DIR, or --rollback, or --reset")
    options = {"epochs": epochs, "max-drop": max_drop, "seed": seed}
    given = {name: str(value) for name, value in options.items() if value is not None}
    with progress() as tell:
        result = driver.personalise(artifact, data, device=device, threads=threads, options=given, progress=tell)
    print_json(result) if json else show_personalised(artifact, result)


def evaluate(artifact: ArtifactFolder, data: Data, device: DeviceName = None, threads: Threads = 1, json: Json = False) -> None:
    """Accuracy per exit, where samples leave, and mean cost, on labelled images."""
    with progress() as tell:
        result = driver.evaluate(artifact, data, device=device, threads=threads, progress=tell)
    if json:
        print_json(result)
        return
    shown = table("exit", "accuracy", "share of samples", "answers")
    for exit in result["exits"]:
        shown.add_row(exit["name"], f"{exit['accuracy']:.1%}", f"{exit['share']:.1%}", "yes" if exit["enabled"] else "no")
    console().print(shown)
    say(f"{result['samples']} images: accuracy {result['accuracy']:.1%} at {result['cost']:.1%} of the work, {result['ms_mean']:.2f} ms a sample")


def run(
    artifact: ArtifactFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG, ...")],
    device: DeviceName = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Classify pictures: class, exit taken, confidence, milliseconds."""
    results = driver.run(artifact, images, device=device, threads=threads)
    if json:
        print_json({"results": results})
        return
    shown = table("image", "class", "exit", "confidence", "ms")
    for result in results:
        shown.add_row(escape(result["image"]), escape(result["name"]), result["exit_name"], f"{result['confidence']:.1%}", f"{result['ms']:.2f}")
    console().print(shown)


def targets(json: Json = False) -> None:
    """List the devices that can be compiled for."""
    known = driver.list_targets()
    if json:
        print_json({"targets": known})
        return
    shown = table("target", "description")
    shown.columns[1].justify = "left"
    for target in known:
        shown.add_row(target["name"], target["description"])
    console().print(shown)


def doctor(json: Json = False) -> None:
    """What is installed, what is missing, and how to get it."""
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


# --- printing ---------------------------------------------------------------------------------------------


def show_personalised(artifact: Path, result: dict[str, Any]) -> None:
    samples, measure = result["samples"], "accuracy" if result["labelled"] else "agreement"
    shown = table("exit", f"{measure} before", "after", "share before", "after", "answers")
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
    say(
        f"{samples['train']} images trained, {samples['calibrate']} calibrated, figures are of {samples['held_out']} held out;"
        f" taught by: {result['teacher']}; {result['seconds']:.1f} s"
    )
    if not result["labelled"]:
        say("without labels, agreement is with the teacher, not with the truth")
    colour = "green" if result["live"] else "yellow"
    say(f"[{colour}]{escape(result['verdict'])}[/]" + (f" ({escape(str(artifact))}/heads.pack; --rollback undoes it)" if result["live"] else ""))
