"""The story of every command, as prose. Commands parse and print; what they do is here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perse_compile.pipeline import Observer
    from perse_compile.program import Program

# --- insert-exits -----------------------------------------------------------------------------------------


def insert_exits(
    model: str,
    *,
    exits: str | int | tuple[str, ...] = "auto",
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    dump: Path | None = None,
    output: Path | None = None,
    observers: Sequence[Observer] = (),
) -> Program:
    """From a model's name to a multi-exit program, saved if `output` says where."""
    from perse_compile.dump import dump_to
    from perse_compile.passes import default_pipeline
    from perse_compile.pipeline import run
    from perse_compile.same_function import SameFunction
    from perse_compile.trace import trace_model

    check_can_write(output)
    program = trace_model(model, weights, num_classes, input_size)
    watching: list[Observer] = [SameFunction(), *([dump_to(dump)] if dump else []), *observers]
    run(program, default_pipeline(exits), watching)
    if output is not None:
        program.save(output)
    return program


def list_cut_points(
    model: str,
    *,
    weights: str = "none",
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
) -> Program:
    """The program up to where its cut points are known: `program.cuts`."""
    from perse_compile.passes import analysis_pipeline
    from perse_compile.pipeline import run
    from perse_compile.trace import trace_model

    return run(trace_model(model, weights, num_classes, input_size), analysis_pipeline())


def list_models() -> list[str]:
    """Names of torchvision's CNN classifiers."""
    from perse_compile import trace

    return trace.list_models()


def program_path(model: str, output: Path | None = None) -> Path:
    """Where insert-exits writes: `resnet50.perse` in this folder unless told otherwise."""
    name = f"{model.rpartition(':')[2]}.perse"
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


def check_can_write(output: Path | None) -> None:
    """Before the work, not after it."""
    from perse_compile.errors import ProgramError

    if output is not None and not output.parent.is_dir():
        raise ProgramError(
            f"no folder {output.parent} to write {output.name} to; make it, or choose another place with -o"
        )
