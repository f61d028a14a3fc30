"""Commands: parse, call the driver, print. The only printing and the only error boundary are here.

torch and tvm are imported inside command bodies (by the driver), so that `--help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from perse_compile import (
    cli_artifact,
    cli_devices,
    cli_personalise,
    cli_place,
    cli_program,
    cli_show,
    cli_study,
    cli_targets,
    cli_tune,
    driver,
)
from perse_compile.cli_options import Json
from perse_compile.cli_show import size
from perse_compile.cli_tune import INTERRUPTED
from perse_compile.console import console, errors, print_json, progress, table, warn
from perse_compile.errors import ModelError, PassError, PerseError

if TYPE_CHECKING:
    from perse_compile.program import Program

ABOUT = "Compile a convolutional classifier into a program that can answer early and learns its owner on the device."

app = typer.Typer(
    name="perse-compile",
    help=ABOUT,
    epilog="First steps: perse-compile insert-exits resnet50, then perse-compile build --target arm64-android.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

NumClasses = Annotated[
    int | None, typer.Option("--num-classes", min=1, help="How many classes; the model's own number by default.")
]
SpareClasses = Annotated[
    int,
    typer.Option(
        "--spare-classes", min=0, max=64, help="Room for classes that a person will teach it: personalise --new-class."
    ),
]
InputSize = Annotated[
    str | None, typer.Option("--input-size", metavar="N|HxW", help="Of the images; the model's own by default.")
]


def main() -> None:
    """Run a command; a user's error is one line and exit status 1, anything else is a bug and keeps its traceback."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments)
    except PerseError as error:
        if debug:
            raise
        errors().print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True, highlight=False)
        sys.exit(1)


@app.callback(help=ABOUT)
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; main() looks for them itself."""


# --- commands ---------------------------------------------------------------------------------------------


@app.command("insert-exits", epilog="Example: perse-compile insert-exits mobilenet_v2 --exits 2")
def insert_exits(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A torchvision name (see `models`), or package.module:factory.")
    ],
    exits: Annotated[str, typer.Option(help="auto (three, spread by cost), a number, or nodes: a,b,c.")] = "auto",
    head: Annotated[
        str,
        typer.Option(metavar="auto|pooled|multiscale|bottleneck", help="What early exits read of their taps."),
    ] = "auto",
    head_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Bytes that one answer of an early exit may read: 400kB. The richest that fits."
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="auto|default|none|FILE",
            help="auto: pretrained if they can be had, else random. FILE: .pth, .safetensors.",
        ),
    ] = "auto",
    num_classes: NumClasses = None,
    spare_classes: SpareClasses = 0,
    input_size: InputSize = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; MODEL.perse in this folder by default.")
    ] = None,
    dump: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the program as text after every pass.")
    ] = None,
    list_cuts: Annotated[
        bool, typer.Option("--list", help="Only list the nodes that can have an exit, and the cost up to each.")
    ] = False,
    place: cli_place.Place = None,
    max_latency: cli_place.MaxLatency = None,
    max_cost: cli_place.MaxCost = None,
    max_drop: cli_place.MaxDrop = None,
    costs: cli_place.CostsOf = None,
    device: cli_place.DeviceOfCosts = None,
    threads: cli_place.ThreadsOfCosts = None,
    static: cli_place.StaticNetworks = None,
    seed: cli_place.Seed = 0,
    plot: cli_place.Plot = None,
    json: Json = False,
) -> None:
    """Put exits into a network: writes MODEL.perse, for train-exits and build."""
    size = parse_size(input_size)
    if list_cuts:
        kind = weights if weights not in ("auto", "default") else "none"
        found = driver.list_cut_points(model, weights=kind, num_classes=num_classes, input_size=size)
        show_cut_points(found, json)
        return
    path = driver.program_path(model, output)
    if place is not None:
        wishes = cli_place.wishes(parse_exits(exits), max_latency, max_cost, max_drop, static, seed, head, head_budget)
        with progress() as tell:
            placed, placement = driver.place_exits(
                model, place, wishes, costs=costs, device=device, threads=threads, weights=weights,
                num_classes=num_classes, spare_classes=spare_classes, input_size=size, dump=dump, output=path,
                plot=plot, progress=tell, notice=warn,
            )  # fmt: skip
        if not json:
            cli_place.show_placement(placement)
        show_program(placed, path, json, placement.as_dict())
        if placement.found.interrupted:
            raise typer.Exit(INTERRUPTED)
        return
    cli_place.check_alone(
        {"--max-latency": max_latency, "--max-cost": max_cost, "--max-drop": max_drop, "--costs": costs,
         "--static": static, "--plot": plot}
    )  # fmt: skip
    program = driver.insert_exits(
        model,
        exits=parse_exits(exits),
        head=head,
        head_budget=head_budget,
        weights=weights,
        num_classes=num_classes,
        spare_classes=spare_classes,
        input_size=size,
        dump=dump,
        output=path,
    )
    show_program(program, path, json)


@app.command(epilog="Example: perse-compile models")
def models(json: Json = False) -> None:
    """List the torchvision networks that can be compiled."""
    names = driver.list_models()
    if json:
        print_json({"models": names})
    else:
        console().print("\n".join(names), highlight=False)


cli_program.register(app)
cli_personalise.register(app)
cli_artifact.register(app)
cli_devices.register(app)
cli_show.register(app)
cli_study.register(app)
cli_targets.register(app)
cli_tune.register(app)


# --- parsing ----------------------------------------------------------------------------------------------


def parse_size(text: str | None) -> tuple[int, int] | None:
    """224 or 224x192."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ModelError(f"--input-size {text!r} is not a size; give N or HxW")
    return int(parts[0]), int(parts[-1])


def parse_exits(text: str) -> str | int | tuple[str, ...]:
    """auto, a number, or names with commas."""
    if text == "auto":
        return text
    if text.lstrip("-").isdecimal():
        return int(text)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise PassError("--exits is empty; give auto, a number, or names of nodes")
    return names


# --- printing ---------------------------------------------------------------------------------------------


def show_program(program: Program, path: Path, json: bool, place: dict[str, Any] | None = None) -> None:
    from perse_compile.macs import head_parameters
    from perse_compile.passes.head_types import head_facts

    full = program.exits[-1].macs
    rows = [(e, e.macs / full if full else 1.0, head_parameters(program, e)) for e in program.exits]
    costs = [head_facts(e, program.outputs) for e in program.exits]
    for message in program.provenance["warnings"]:
        warn(message)
    if json:
        keys = ("name", "tap", "grid", "features", "macs")
        exits = [
            {**{k: getattr(e, k) for k in keys}, "share": share, "head_parameters": n, **cost}
            for (e, share, n), cost in zip(rows, costs, strict=True)
        ]
        print_json({"program": str(path), "name": program.name, "classes": len(program.classes),
                    "spare_classes": program.spare, "exits": exits,
                    "warnings": program.provenance["warnings"], **({"place": place} if place else {})})  # fmt: skip
        return
    shown = table("exit", "tap", "share of MACs", "head", "head parameters", "read")
    for (exit, share, parameters), cost in zip(rows, costs, strict=True):
        read = size(cost["head_bytes"])
        shown.add_row(exit.name, exit.tap, f"{share:.1%}", cost["head_words"], f"{parameters:,}", read)
    console().print(shown)
    spec, room = program.input, f" and room for {program.spare}" if program.spare else ""
    console().print(
        f"{escape(str(path))}: {spec.channels}x{spec.height}x{spec.width} images, {len(program.classes)} classes{room},"
        f" {full / 1e6:,.0f} million MACs, {path.stat().st_size / 1e6:.1f} MB",
        soft_wrap=True, highlight=False,
    )  # fmt: skip


def show_cut_points(program: Program, json: bool) -> None:
    full = max((cut.macs for cut in program.cuts), default=0)
    if json:
        cuts = [{"node": c.node, "macs": c.macs, "share": c.macs / full, "shape": list(c.shape)} for c in program.cuts]
        print_json({"name": program.name, "cuts": cuts})
        return
    shown = table("cut point", "shape", "MACs up to here", "share")
    for cut in program.cuts:
        shown.add_row(
            cut.node, "x".join(map(str, cut.shape)), f"{cut.macs / 1e6:,.1f} M", f"{cut.macs / max(full, 1):.1%}"
        )
    console().print(shown)


if __name__ == "__main__":
    main()
