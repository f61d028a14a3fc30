"""`insert-exits --place`: its options, and how it prints what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from perse_compile.console import console, say, table
from perse_compile.errors import PassError

if TYPE_CHECKING:
    from perse_compile.placement.place import Placement, Wishes

ROWS = 12  # of the front, printed
PANEL = "Placement on a labelled set"

Place = Annotated[
    Path | None,
    typer.Option(
        "--place",
        metavar="DIR|NPZ",
        help="Labelled images: exits go where they pay on them. --exits is then how many at most (3), or the nodes"
        " to choose from.",
        rich_help_panel=PANEL,
    ),
]
MaxLatency = Annotated[
    float | None,
    typer.Option("--max-latency", min=0, metavar="MS", help="Mean milliseconds an image.", rich_help_panel=PANEL),
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, max=1, help="Mean share of the full network's cost.", rich_help_panel=PANEL),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0,
        max=1,
        help="Accuracy that early answers may lose against the full network: an aim, not a promise. 0.01 (one point)"
        " if nothing is asked for.",
        rich_help_panel=PANEL,
    ),
]
CostsOf = Annotated[
    Path | None,
    typer.Option(
        "--costs",
        metavar="ARTIFACT",
        help="An artifact of this network, whose stages are timed; without it cost is multiply-accumulates.",
        rich_help_panel=PANEL,
    ),
]
DeviceOfCosts = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="Where --costs runs.", rich_help_panel=PANEL)
]
ThreadsOfCosts = Annotated[
    int | None, typer.Option("--threads", min=1, max=64, help="Of --costs.", rich_help_panel=PANEL)
]
StaticNetworks = Annotated[
    list[str] | None,
    typer.Option(
        "--static",
        metavar="ACCURACY@COST",
        help="Another network to compare with: 0.902@0.4 (share of this one's cost) or 0.902@3.1ms; may be repeated.",
        rich_help_panel=PANEL,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Of the split and of the heads' training.", rich_help_panel=PANEL)
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw the front: .html or .svg.", rich_help_panel=PANEL),
]


def check_alone(given: dict[str, Any]) -> None:
    """Options of the search without the search. Raises PassError."""
    for name, value in given.items():
        if value is not None:
            raise PassError(f"{name} needs images to search on; give --place DATA as well")


def wishes(
    exits: str | int | tuple[str, ...],
    max_latency: float | None,
    max_cost: float | None,
    max_drop: float | None,
    static: list[str] | None,
    seed: int,
    head: str,
    head_budget: str | None,
) -> Wishes:
    """Of the command's options."""
    from perse_compile.passes.head_types import parse_wish
    from perse_compile.placement.budget import Budget
    from perse_compile.placement.place import EXITS, Wishes

    if isinstance(exits, int) and exits < 1:
        raise PassError(f"--exits {exits} is not a positive number")
    names = exits if isinstance(exits, tuple) else None
    most = exits if isinstance(exits, int) else EXITS
    return Wishes(
        Budget(max_latency, max_cost, max_drop), most, names, tuple(static or ()), seed, parse_wish(head, head_budget)
    )


def show_placement(found: Placement) -> None:
    """The front, the chosen point and what to think of it."""
    from perse_compile.placement.points import limit

    ms = found.costs.full_ms
    shown = table("exits (confidence from)", *(["ms"] if ms else []), "cost", "accuracy", "cost, report", "accuracy")
    for number in found.shown(ROWS):
        point = found.front[number]
        mark = "[bold green]" if number == found.chosen else ""
        exits = ", ".join(f"{escape(exit.tap)} {limit(exit.threshold)}" for exit in point.exits) or "full network"
        shown.add_row(
            f"{mark}{exits}",
            *([f"{point.search.cost * ms:.3f}"] if ms else []),
            f"{point.search.cost:.1%}",
            f"{point.search.accuracy:.1%}",
            f"{point.report.cost:.1%}",
            f"{point.report.accuracy:.1%}",
        )
    console().print(shown)
    hidden = len(found.front) - len(shown.rows)
    more = f" {hidden} points of the front are not shown (--json has all)." if hidden else ""
    say(
        f"{found.images} images trained heads and were searched, {found.report_images} others report;"
        f" cost by {escape(found.costs.source)}.{more}"
    )
    stopped = " (stopped: those with more were not all looked at)" if found.found.interrupted else ""
    say(
        f"all cascades of at most {found.found.exits} of {len(found.candidates)} candidates with"
        f" {found.found.grid} thresholds each{stopped}; {sum(found.seconds.values()):.0f} s"
    )
    say(f"[bold]chosen: {escape(found.why)}[/]")
    for sentence in found.verdict:
        say(escape(sentence))
