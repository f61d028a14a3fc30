"""How commands print: tables, JSON, progress bars, warnings."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Tell = Callable[[str, int, int], None]  # what, done, total


def console() -> Console:
    return Console()


def errors() -> Console:
    return Console(stderr=True)


def print_json(value: Any) -> None:
    print(json_text.dumps(value, indent=2))


def say(text: str) -> None:
    """A line that stays one line however narrow the terminal."""
    console().print(text, soft_wrap=True, highlight=False)


def warn(message: str) -> None:
    """On stderr, so that it is seen beside --json too."""
    errors().print(Panel(escape(message), title="WARNING", border_style="bold yellow", style="yellow"))


def table(*columns: str) -> Table:
    """Names to the left, figures to the right."""
    made = Table()
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return made


class _Amount(MofNCompleteColumn):
    """How much of it is done; what is pushed is counted in bytes."""

    def render(self, task: Task) -> Text:
        return DownloadColumn().render(task) if task.description.startswith("pushing ") else super().render(task)


@contextmanager
def progress() -> Iterator[Tell]:
    """A bar on stderr for each thing that takes long, with the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Amount(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors(), transient=True, disable=not errors().is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """A spinner on stderr that says what is being done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors(), transient=True, disable=not errors().is_terminal) as bars:
        task = bars.add_task("starting")
        yield lambda what: bars.update(task, description=what)
