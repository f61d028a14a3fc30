"""The commands from Python: every function here is one of `perse_compile.driver`, with values instead of text."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile import artifact as artifacts
from perse_compile import driver
from perse_compile.artifact import Artifact
from perse_compile.early_exit import Answers, EarlyExit
from perse_compile.program import Program
from perse_compile.report.environment import FORMATS
from perse_compile.report.notebook import table


@dataclass(frozen=True)
class Answer:
    """What an artifact says of one image."""

    name: str  # of the class
    label: int
    confidence: float
    exit: int
    exit_name: str
    stages: int  # that ran
    ms: float
    probabilities: NDArray[np.float64]  # of every class, by the exit that answered

    def _repr_html_(self) -> str:
        row = [self.name, FORMATS["percent"](self.confidence), self.exit_name, FORMATS["ms"](self.ms)]
        return table("answer", ["class", "confidence", "exit", "time"], [row])


class Figures(dict[str, Any]):
    """What a command gives as --json; a notebook shows it as a table."""

    def _repr_html_(self) -> str:
        plain = [[name, str(value)] for name, value in self.items() if not isinstance(value, dict | list)]
        rows = [[str(row.get(name, "")) for name in row] for row in self.get("exits", [])]
        exits = table("exits", list(self["exits"][0]), rows) if rows else ""
        return table("figures", ["", ""], plain) + exits


def insert_exits(
    model: str,
    *,
    exits: str | int | tuple[str, ...] = "auto",
    head: str = "auto",
    head_budget: str | None = None,
    weights: str = "auto",
    num_classes: int | None = None,
    spare_classes: int = 0,
    input_size: tuple[int, int] | None = None,
    output: Path | str | None = None,
) -> Program:
    """A torchvision name or package.module:factory as a program; what the command warns of is a Python warning."""
    program = driver.insert_exits(
        model, exits=exits, head=head, head_budget=head_budget, weights=weights, num_classes=num_classes,
        spare_classes=spare_classes, input_size=input_size, output=_path(output),
    )  # fmt: skip
    for message in program.provenance["warnings"]:
        warnings.warn(message, stacklevel=2)
    return program


def load_program(path: Path | str) -> Program:
    """A .perse file."""
    return Program.load(Path(path))


def train_exits(program: Program | Path | str, data: Path | str, **options: Any) -> Figures:
    """Train the heads of a program, which changes (of a file: is rewritten); options as of the command."""
    report, _ = driver.train_exits(_program(program), Path(data), **options)
    return Figures(report.as_dict())


def build(program: Program | Path | str, target: str, *, output: Path | str | None = None, **options: Any) -> Artifact:
    """A verified artifact; `./NAME-TARGET` unless `output` says where."""
    return driver.build(_program(program), target, output=_path(output), **options).artifact


def open_artifact(folder: Path | str) -> Artifact:
    """The folder that `build` wrote; every file is checked."""
    return artifacts.open_artifact(Path(folder))


def run(artifact: Artifact | Path | str, image: Any, **options: Any) -> Answer:
    """One image: a path, a PIL image, uint8 pixels (H,W,C), or floats (C,H,W) that are already normalised."""
    [found] = driver.run(_folder(artifact), [image], probabilities=True, **options)
    fields = ("name", "label", "confidence", "exit", "exit_name", "stages", "ms")
    return Answer(**{name: found[name] for name in fields}, probabilities=np.array(found["probabilities"]))


def personalise(artifact: Artifact | Path | str, data: Path | str, **options: Any) -> Figures:
    """Train the artifact's heads on one person's images; options as of the driver, such as new_classes."""
    return Figures(driver.personalise(_folder(artifact), Path(data), **options))


def evaluate(artifact: Artifact | Path | str, data: Path | str, **options: Any) -> Figures:
    """Accuracy and share of every exit on labelled images."""
    return Figures(driver.evaluate(_folder(artifact), Path(data), **options))


def show(path: Program | Artifact | Path | str) -> Figures:
    """Every figure of a program or an artifact."""
    from perse_compile.report.figures import program_figures

    if isinstance(path, Program):
        return Figures(program_figures(path))
    return Figures(driver.show(_folder(path)))


def _program(program: Program | Path | str) -> Program | Path:
    return program if isinstance(program, Program) else Path(program)


def _folder(artifact: Artifact | Path | str) -> Path:
    return artifact.folder if isinstance(artifact, Artifact) else Path(artifact)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


__all__ = ["Answer", "Answers", "Artifact", "EarlyExit", "Figures", "Program"]
