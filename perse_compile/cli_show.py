"""The command `show`: a program or an artifact in the terminal, as JSON, or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from perse_compile import driver
from perse_compile.console import console, print_json, say, warn
from perse_compile.errors import ProgramError

Row = dict[str, Any]
BAR = 14  # columns
EIGHTHS = " ▏▎▍▌▋▊▉█"


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("show", epilog="Example: perse-compile show resnet50.perse --html")(show)


def show(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PROGRAM|ARTIFACT]",
            help="A .perse file, or the folder that `build` wrote; may be left out when one program lies here.",
        ),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write one page: PROGRAM.html, or report.html in the artifact.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the page here instead.")
    ] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="Also the blocks of every stage.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Every figure as JSON, for scripts.")] = False,
) -> None:
    """Look at a program or an artifact: stages and what they cost, exits, memory, where it comes from."""
    if output is not None and not html:
        raise ProgramError("-o says where the page goes; give --html with it")
    if html:
        found, page = driver.show_html(path, output)
        found = {**found, "page": str(page)}
    else:
        found = driver.show(path)
    if json:
        print_json(found)
        return
    for warning in found["warnings"]:
        warn(warning)
    console().print(tree(found, blocks), highlight=False)
    for line in facts(found):
        say(line)
    say(f"written: {escape(found['page'])}" if html else "--html makes a page of it, --json gives every figure")


# --- printing ---------------------------------------------------------------------------------------------


def tree(found: Row, blocks: bool) -> Tree:
    """Stages with their share of the work, and the exits at their ends."""
    spec = found["input"]
    target = f" for {found['target']['name']}" if found["target"] else ""
    head = Text.assemble((f"{found['name']}{target}", "bold"), f"  {spec['height']}x{spec['width']}x{spec['channels']}")
    taught = f" and {', '.join(found['new_classes'])}" if found["new_classes"] else ""
    room = f" (room for {found['spare_classes']} more)" if found["spare_classes"] else ""
    head.append(f", {found['classes']} classes{taught}{room}")
    head.append(f", {count(found['macs'])} MACs, {size(found['memory'][0]['bytes'])} weights")
    root = Tree(head, guide_style="dim")
    for stage, exit in zip(found["stages"], found["exits"], strict=True):
        branch = root.add(stage_line(stage))
        if blocks and found["layers"] is not None:
            for name, macs, layers in blocks_of(found["layers"], stage["name"]):
                share = macs / found["macs"] if found["macs"] else 0.0
                branch.add(columns(Text(name, "dim"), bar(share, "dim cyan"), f"{share:.1%}", f"{layers} layers"))
        branch.add(exit_lines(exit, exit is found["exits"][-1]))
    return root


def stage_line(stage: Row) -> Table:
    layers = "" if stage["layers"] is None else f"{stage['layers']} layers"
    time = f"{stage['ms']:.3f} ms ({stage['time_share']:.1%})" if "ms" in stage else ""
    name = Text(f"to {stage['name']}", "bold")
    return columns(name, bar(stage["share"], "cyan"), f"{stage['share']:.1%}", layers, time)


def exit_lines(exit: Row, last: bool) -> Group:
    state = "always answers" if last else f"answers from {exit['threshold']:.3f}" if exit["enabled"] else "off"
    style = "green" if exit["enabled"] else "yellow"
    first = Text.assemble((f"⎋ {exit['name']} ", style), (state, style), f", temperature {exit['temperature']:.3f}")
    first.append(f"; after {exit['share']:.1%}" + (f", {exit['ms']:.3f} ms" if "ms" in exit else ""))
    second = Text(f"reads {exit['tap']}: {exit['head_words']}, {exit['features']:,} features, ")
    second.append(f"a head of {exit['head_parameters']:,}, {size(exit['head_bytes'])} an answer")
    second.stylize("dim")
    return Group(first, second)


def facts(found: Row) -> list[str]:
    """A line each: memory, files, tuning, time, what personalising said."""
    sizes = [f"{part['name']} {size(part['bytes'])}" for part in found["memory"] if part["bytes"] is not None]
    lines = ["memory: " + ", ".join(sizes)]
    if found["tuning"]:
        lines.append(escape(f"tuning: {found['tuning']['words']}"))
    if found["kind"] == "artifact":
        lines.append(verified(found))
        time = found["time"]
        if time:
            lines.append(f"time: {time['full_ms']:.3f} ms for the full network, median of {time['runs']} runs,"
                         f" {time['threads']} thread(s), on {escape(time['device'])}, {time['when']}")  # fmt: skip
        else:
            lines.append("time: not measured; `perse-compile bench` measures it")
        heads = found["heads"]
        generation = None if heads is None else heads["generation"]
        lines.append(
            "heads: " + ("factory" if not generation else f"generation {generation}: changed since they were built")
        )
    lines += learnt(found)
    weights = found["weights"]
    lines.append(f"weights: {escape(str(weights.get('name', weights.get('source', 'not known'))))}")
    if found.get("page_is_stale"):
        lines.append(f"[yellow]{escape(found['page_is_stale'])}[/]")
    return lines


def verified(found: Row) -> str:
    if found["verified"] is None:
        return "not verified against PyTorch here; `./perse selftest` on the device does it"
    return f"verified against PyTorch ({found['verified']['device']}): differs by {found['verified']['greatest']:.1e}"


def learnt(found: Row) -> list[str]:
    lines = []
    if found["trained"]:
        trained = found["trained"]
        lines.append(f"exits trained on {escape(trained['data'])}: {trained['measure']} {trained['early']:.1%} at"
                     f" {trained['cost']:.1%} of the work, on {trained['images']['held_out']} images")  # fmt: skip
    if found["personalised"]:
        record = found["personalised"]
        measure = "accuracy" if record["labelled"] else "agreement"
        whose = "" if record["in_use"] else "; heads have changed since"
        before, after = (record[when]["accuracy"] for when in ("before", "after"))
        lines.append(f"personalised on {escape(record['data'])}, {record['when']}: {measure} {before:.1%} before,"
                     f" {after:.1%} after{whose}")  # fmt: skip
    return lines


def columns(name: Text, *rest: Any) -> Table:
    """On one line, one below the other."""
    line = Table.grid(padding=(0, 1))
    for width, justify in ((16, "left"), (BAR, "left"), (6, "right"), (10, "right"), (18, "right")):
        line.add_column(width=width, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    line.add_row(name, *rest, *[""] * (4 - len(rest)))
    return line


def bar(share: float, style: str) -> Text:
    """In eighths of a column."""
    eighths = round(share * BAR * 8)
    return Text("█" * (eighths // 8) + EIGHTHS[eighths % 8], style)


def blocks_of(layers: list[Row], stage: str) -> list[tuple[str, int, int]]:
    """Name, MACs and number of layers of each, in order."""
    found: list[tuple[str, int, int]] = []
    for layer in layers:
        if layer["stage"] == stage:
            name, macs, number = found.pop() if found and found[-1][0] == layer["block"] else (layer["block"], 0, 0)
            found.append((name, macs + layer["macs"], number + 1))
    return found


def count(macs: int) -> str:
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


def size(bytes: int) -> str:
    return f"{bytes / 1e6:.1f} MB" if bytes >= 1e6 else f"{bytes / 1e3:.0f} KB"
