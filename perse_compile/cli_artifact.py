"""Commands on artifacts and devices: build, personalise, evaluate, run, doctor; and train-exits."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_tune import INTERRUPTED, live, show
from perse_compile.console import console, print_json, progress, say, steps, table, warn
from perse_compile.devices import EMULATOR_HINT
from perse_compile.errors import DataError

Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON, for scripts.")]
Data = Annotated[
    Path,
    typer.Option(metavar="DIR|NPZ", help="Images: a folder with one sub-folder per class, or an .npz."),
]
ArtifactFolder = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The folder that `build` wrote.")]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where the artifact runs: local, emulator, ssh://USER@HOST:PORT, adb or adb:SERIAL.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Threads of the artifact's runtime: 1, or every core under the emulator."),
]
Pack = Annotated[
    str | None,
    typer.Option(
        "--pack", metavar="NAME", help="A named pack instead of the artifact's own heads; `packs` lists them."
    ),
]
Database = Annotated[
    Path | None,
    typer.Option("--database", metavar="FILE", help="What tuning found; tuning.jsonl in your cache by default."),
]


class Against(str, Enum):
    """What early answers are measured against."""

    final = "final"
    factory = "factory"


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    phone, heads = "resnet50-arm64-android", "resnet50-x86_64-linux"
    for name, command, example in (
        ("train-exits", train_exits, "train-exits resnet50.perse --data photos/"),
        ("build", build, "build --target arm64-android"),
        ("personalise", personalise, f"personalise {phone} --data my-photos/ --device emulator"),
        ("estimate", estimate, f"estimate {phone} --images 300 --device emulator"),
        ("evaluate", evaluate, f"evaluate {heads} --data my-other-photos/"),
        ("run", run, f"run {heads} cat.jpg dog.jpg"),
        ("exits", exits, f"exits {heads} --disable exit0"),
        ("packs", packs, f"packs {heads}"),
        ("doctor", doctor, "doctor"),
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
            options=given,
            before=None if json else show_estimate,
            progress=tell,
            notice=warn,
        )
    print_json(result) if json else show_personalised(heads_of(artifact, pack), result)


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
    shown = table("pack", "heads", "changes")
    for pack in found:
        state = "damaged" if not pack["sound"] else "personalised" if pack["generation"] else "factory"
        shown.add_row(escape(pack["name"]) or "(the artifact's own)", state, str(pack["generation"]))
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


def heads_of(artifact: Path, pack: str | None) -> str:
    """The file that holds them."""
    return str(artifact / "heads.pack" if pack is None else artifact / "packs" / pack / "heads.pack")


# --- printing ---------------------------------------------------------------------------------------------


def show_estimate(found: dict[str, Any]) -> None:
    say(
        f"{found['images']} images to see, {found['samples']} to learn from: about {found['seconds']:.1f} s,"
        f" at most {found['seconds_at_most']:.1f} s ({found['core_seconds']:.1f} to {found['core_seconds_at_most']:.1f}"
        f" core-seconds), {found['memory_bytes'] / 1e6:.0f} MB of memory"
    )


def show_personalised(heads: str, result: dict[str, Any]) -> None:
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
    say(f"{samples['train']} images trained the heads; these figures are of {samples['judged']},")
    say(f"each judged by heads that did not learn from it; {result['seconds']:.1f} s")
    say(f"teacher: {result['teacher']}")
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
