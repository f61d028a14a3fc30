"""The command `targets`: what there is to compile for, one of them in full, and a connected device as another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from perse_compile import driver
from perse_compile.cli_options import Json
from perse_compile.console import console, print_json, say, table
from perse_compile.errors import TargetError
from perse_compile.targets import Target

ASSUMED = "assumed"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("targets", epilog="Example: perse-compile targets raspberry-pi-5")(targets)


def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|TOML|native]", help="Show this one in full, with its sources.")
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe", metavar="DEVICE", help="Describe a connected device: local, ssh://[user@]host, adb[:serial]."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="TOML that --probe writes; named after the board here."),
    ] = None,
    json: Json = False,
) -> None:
    """List the devices that `build` compiles for, show one in full, or describe a connected one."""
    if (probe is not None and name is not None) or (probe is None and output is not None):
        raise TargetError("give NAME to show a target, or --probe DEVICE [-o FILE] to describe a device")
    if probe is not None:
        path, target = driver.probe_target(probe, output)
        if json:
            print_json({"written": str(path), "target": asdict(target)})
            return
        show(target)
        say(f"written: {escape(str(path))}; build with --target {escape(str(path))}")
    elif name is not None:
        target = driver.show_target(name)
        print_json({"target": asdict(target)}) if json else show(target)
    else:
        known = driver.list_targets()
        print_json({"targets": [asdict(target) for target in known]}) if json else show_all(known)


# --- printing ---------------------------------------------------------------------------------------------


def show_all(known: list[Target]) -> None:
    shown = table("target", "cores", "vectors", "caches in KB", "description")
    for column in shown.columns:
        column.justify = "left"
    for target in known:
        figures = caches(target) if target.cache_source else f"{caches(target)} ({ASSUMED})"
        shown.add_row(target.name, cores(target), vectors(target), figures, target.description)
    console().print(shown)
    say("native is this machine; a .toml of your own is another; NAME shows one with its sources")


def show(target: Target) -> None:
    """Every figure of one target, and where it is from."""
    shown = table(target.name, target.description, "source")
    shown.columns[1].justify = shown.columns[2].justify = "left"
    for what, figure, source in rows(target):
        shown.add_row(what, escape(figure), escape(source))
    console().print(shown)


def rows(target: Target) -> Iterator[tuple[str, str, str]]:
    yield "cores", cores(target), target.core_source or ASSUMED
    for cluster in target.clusters:
        clock = f"{cluster.megahertz} MHz" if cluster.megahertz else ""
        sizes = zip(("L1d", "L2"), (cluster.l1d_kilobytes, cluster.l2_kilobytes), strict=True)
        figures = [clock, *(f"{name} {size} KB" for name, size in sizes if size)]
        yield "", f"{cluster.cores} x {cluster.core}: {', '.join(filter(None, figures))}", ""
    yield "vectors", vectors(target), target.vector_source or ASSUMED
    yield "caches in KB", caches(target), target.cache_source or ASSUMED
    chained = target.accumulate_latency or target.fma_latency
    multiply = f"{target.fma_latency} cycles, {chained} to the next into the same register"
    yield "multiply-accumulate", f"{multiply}, {target.fmas_per_cycle:g} a cycle", target.fma_source or ASSUMED
    yield "accumulators needed", str(target.chains), ""
    yield "kernels", " ".join((target.mtriple, target.mcpu, *target.mattr)), "LLVM"
    yield "runtime", f"{target.zig} {target.zig_cpu}", "zig"
    yield "machine", target.machine, "uname -m"
    yield "emulator", target.emulator, ""


def cores(target: Target) -> str:
    """4 x cortex-a76 (+ 4 x cortex-a55)."""
    used = f"{target.cores} x {target.core}" if target.core else str(target.cores)
    others = [f"{c.cores} x {c.core}" for c in target.clusters if c.core != target.core]
    return f"{used} (+ {', '.join(others)})" if others else used


def vectors(target: Target) -> str:
    return f"{target.registers} x {8 * target.vector_bytes} bits"


def caches(target: Target) -> str:
    """32, 1024 shared by 4."""
    levels = [(target.l1d_kilobytes, 1), (target.l2_kilobytes, target.l2_shared_by)]
    if target.l3_kilobytes:
        levels.append((target.l3_kilobytes, target.l3_shared_by))
    return ", ".join(f"{size} shared by {cores}" if cores > 1 else str(size) for size, cores in levels)
