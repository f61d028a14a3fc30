"""The command `tune`: what it takes, how its progress looks, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from perse_compile import driver
from perse_compile.cli_options import Json
from perse_compile.console import console, errors, print_json, say, table, warn
from perse_compile.errors import TuningError

MINUTES = 15.0
SHOWN = 15  # tasks
INTERRUPTED = 130  # exit status after Ctrl-C
Follow = Callable[[dict[str, Any], str], None]


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("tune", epilog="Example: perse-compile tune resnet50.perse --target x86_64-linux --minutes 15")(tune)


def tune(
    program: Annotated[
        Path | None,
        typer.Argument(metavar="[PROGRAM]", help="A .perse file; may be left out when one lies in this folder."),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="NAME|TOML", help="A device; `targets` lists them.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="local|emulator|model|...",
            help="Where candidates are measured; the best at hand by default. The emulator ranks by instructions,"
            " model by arithmetic: neither measures.",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Stop after so many candidates.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help=f"Stop after so long; {MINUTES:.0f} without --trials.")
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option("--database", metavar="FILE", help="Where it is kept; tuning.jsonl in your cache by default."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Threads that a kernel is measured with.")] = 1,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the winners to a file, nothing else.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read what another exported, nothing else.")
    ] = None,
    json: Json = False,
) -> None:
    """Search for the fastest kernels on a device; `build` uses them from then on."""
    if export is not None or import_ is not None:
        exchange(export, import_, database, json)
        return
    if target is None:
        raise TuningError("tune for which device? give --target (`perse-compile targets` lists them)")
    if trials is None and minutes is None:
        minutes = MINUTES
    with live(trials, minutes) as follow:
        found = driver.tune(
            program,
            target,
            device=device,
            trials=trials,
            minutes=minutes,
            database=database,
            threads=threads,
            follow=follow,
        )
    print_json(found) if json else show(found)
    if found["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def exchange(export: Path | None, import_: Path | None, database: Path | None, json: bool) -> None:
    result: dict[str, Any] = {}
    if import_ is not None:
        new, known = driver.import_tuning(import_, database)
        result |= {"imported": new, "known": known}
    if export is not None:
        result["exported"] = driver.export_tuning(export, database)
    if json:
        print_json(result)
        return
    if import_ is not None:
        say(f"{result['imported']} records came from {escape(str(import_))}; {result['known']} were known")
    if export is not None:
        say(f"{result['exported']} records written to {escape(str(export))}; `tune --import` reads them")


# --- progress ---------------------------------------------------------------------------------------------


@contextmanager
def live(trials: int | None, minutes: float | None) -> Iterator[Follow]:
    """A table on stderr that is drawn anew after every batch."""
    with Live(Text("looking at the program"), console=errors(), transient=True, auto_refresh=False) as screen:

        def follow(found: dict[str, Any], what: str) -> None:
            if errors().is_terminal:
                screen.update(Group(tasks(found), Text(f"{state(found, trials, minutes)}\n{what}")), refresh=True)

        yield follow


def state(found: dict[str, Any], trials: int | None, minutes: float | None) -> str:
    """How far it is, and the time left."""
    done, seconds = found["trials"], found["seconds"]
    left = []
    if trials is not None and done:
        left.append(seconds * max(0, trials - done) / done)
    if minutes is not None:
        left.append(max(0.0, 60 * minutes - seconds))
    eta = f", {min(left):.0f} s left" if left else ""
    return f"{done} candidates in {seconds:.0f} s{eta}; one image {totals(found)}"


def totals(found: dict[str, Any]) -> str:
    before, after = found["before"], found["after"]
    if not before:
        return "not measured yet"
    gain = f"{before / after:.2f} times as fast" if found["unit"] == "seconds" else f"{before / after:.2f} times less"
    return f"{amount(before, found['unit'])} by default, {amount(after, found['unit'])} tuned: {gain}"


def amount(cost: float, unit: str) -> str:
    if unit == "seconds":
        return f"{1e3 * cost:.3f} ms" if cost < 1 else f"{cost:.2f} s"
    return f"{cost / 1e6:,.2f} M {unit}"


def tasks(found: dict[str, Any]) -> Table:
    shown = table("workload", "runs", "share", "default", "best", "speed-up", "tried")
    for row in found["tasks"][:SHOWN]:
        shown.add_row(
            escape(row["workload"]),
            str(row["count"]),
            f"{row['share']:.1%}",
            amount(row["default"], found["unit"]),
            amount(row["best"], found["unit"]),
            f"{row['speed_up']:.2f}",
            str(row["trials"]),
        )
    if len(found["tasks"]) > SHOWN:
        rest = found["tasks"][SHOWN:]
        shown.add_row(f"{len(rest)} others", "", f"{sum(row['share'] for row in rest):.1%}", "", "", "", "")
    return shown


# --- summary ----------------------------------------------------------------------------------------------

RANKED = {
    "instructions": "ranked by executed instructions under the emulator, never by time: modelled, not measured",
    "points": "no device and no emulator: ranked by arithmetic (registers, cache, loop steps): modelled, not measured",
}


def show(found: dict[str, Any]) -> None:
    console().print(tasks(found))
    for work in found["not_measured"]:
        say(f"not tuned, its default kernel could not be measured: {escape(work)}")
    say(RANKED.get(found["unit"]) or f"measured on {escape(found['where'])}, {found['threads']} thread(s)")
    if found["served"]:
        say("measured by " + ", ".join(f"{escape(name)} ({count})" for name, count in found["served"].items()))
    for server in found["lost"]:
        warn(f"the server {server} went away; what it had was measured by others")
    for server in found["left_out"]:
        warn(f"left out: {server}")
    say(f"one image, kernels together: {totals(found)}")
    say(f"{found['trials']} candidates in {found['seconds']:.0f} s; kept in {escape(found['database'])}")
    if found["interrupted"]:
        say("stopped; nothing is lost: the same command goes on from here")
    else:
        say(f"`perse-compile build --target {escape(found['target'])}` uses them")
