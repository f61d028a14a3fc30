"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
