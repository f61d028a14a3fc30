"""From a model's name to an artifact: insert-exits, train-exits, tune, build, show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perse_compile.driver.artifacts import open_session

if TYPE_CHECKING:
    from perse_compile.building.build import Built
    from perse_compile.console import Tell
    from perse_compile.personalise.train_exits import ExitReport
    from perse_compile.pipeline import Observer
    from perse_compile.placement.place import Placement, Wishes
    from perse_compile.program import Program


# --- insert-exits -----------------------------------------------------------------------------------------


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
    dump: Path | None = None,
    output: Path | None = None,
    observers: Sequence[Observer] = (),
) -> Program:
    """From a model's name to a multi-exit program, saved if `output` says where; heads as --head and --head-budget.

    `spare_classes`: outputs more than the network has, for classes that a person teaches it.
    """
    from perse_compile.dump import dump_to
    from perse_compile.passes import default_pipeline
    from perse_compile.passes.head_types import parse_wish
    from perse_compile.pipeline import run
    from perse_compile.same_function import SameFunction
    from perse_compile.trace import trace_model

    check_can_write(output)
    wish = parse_wish(head, head_budget)
    program = trace_model(model, weights, num_classes, input_size)
    watching: list[Observer] = [SameFunction(), *([dump_to(dump)] if dump else []), *observers]
    run(program, default_pipeline(exits, head=wish, spare=spare_classes), watching)
    if output is not None:
        program.save(output)
    return program


def place_exits(
    model: str,
    data: Path,
    wishes: Wishes,
    *,
    costs: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    weights: str = "auto",
    num_classes: int | None = None,
    spare_classes: int = 0,
    input_size: tuple[int, int] | None = None,
    dump: Path | None = None,
    output: Path | None = None,
    plot: Path | None = None,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> tuple[Program, Placement]:
    """As insert_exits, with exits where they pay on labelled images; `costs`: an artifact whose stages are timed."""
    from perse_compile.dump import dump_to
    from perse_compile.passes import analysis_pipeline
    from perse_compile.personalise.data import read_images
    from perse_compile.pipeline import run
    from perse_compile.placement.measured import measured
    from perse_compile.placement.page import check_can_draw, draw
    from perse_compile.placement.place import place
    from perse_compile.same_function import SameFunction
    from perse_compile.trace import trace_model

    check_can_write(output)
    check_can_draw(plot)
    tell = progress or (lambda what, done, total: None)
    program = trace_model(model, weights, num_classes, input_size)
    watching: list[Observer] = [SameFunction(), *([dump_to(dump)] if dump else [])]
    run(program, analysis_pipeline(), watching)
    images = read_images(data, program.input, program.classes, lambda done, total: tell("reading images", done, total))
    seen = None
    if costs is not None:
        with open_session(costs, device, threads, notice=notice) as session:
            timed = {"device": session.device.name, **session.simple("bench")}
            seen = measured(costs, session.artifact.manifest, timed, program)
    placement = place(program, images, wishes, seen, tell=tell, spare=spare_classes, observers=watching)
    if output is not None:
        program.save(output)
    if plot is not None:
        draw(program.name, placement, plot)
    return program, placement


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


# --- train-exits ------------------------------------------------------------------------------------------


def train_exits(
    path: Path | Program,
    data: Path,
    *,
    epochs: int = 60,
    max_drop: float = 0.01,
    seed: int = 0,
    final: bool = False,
    output: Path | None = None,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> tuple[ExitReport, Path | None]:
    """Heads learn from labels and from the final exit; the program is rewritten (or `output` is), with its page.

    A program that is given as such changes, and is written only to `output`.
    """
    from perse_compile.personalise import train_exits as trainer
    from perse_compile.personalise.data import read_images
    from perse_compile.program import Program
    from perse_compile.report.keep import keep_program

    check_can_write(output)
    program = path if isinstance(path, Program) else Program.load(path)
    tell = progress or (lambda what, done, total: None)
    images = read_images(data, program.input, program.classes, lambda done, total: tell("reading images", done, total))
    report = trainer.train_exits(
        program, images, epochs=epochs, max_drop=max_drop, seed=seed, final=final, progress=progress
    )
    destination = output or (None if isinstance(path, Program) else path)
    if destination is not None:
        program.save(destination)
        keep_program(program, destination, notice)
    return report, destination


# --- build ------------------------------------------------------------------------------------------------


def build(
    path: Path | Program | None,
    target: str,
    *,
    output: Path | None = None,
    database: Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda what: None,
    notice: Callable[[str], None] = lambda what: None,
) -> Built:
    """From a program to a verified artifact folder and its page, with what the tuning database knows."""
    from perse_compile import devices, targets
    from perse_compile.building import build as building
    from perse_compile.program import Program
    from perse_compile.report.keep import keep_build
    from perse_compile.tuning.database import open_database

    device = targets.load(target)
    program = path if isinstance(path, Program) else Program.load(path or only_program())
    known = open_database(database).remembered(device)
    folder = output or Path(f"{program.name}-{device.name}")
    built = building.build(program, device, folder, remembered=known, force=force, say=say)
    say("measuring, for report.html")
    keep_build(built.artifact, built.selftest, devices.any_device(device.machine, device.emulator), notice)
    return built


# --- show -------------------------------------------------------------------------------------------------


def show(path: Path | None) -> dict[str, Any]:
    """Every figure of a program or an artifact."""
    from perse_compile.report.show import figures_of

    return figures_of(path or only_program())


def show_html(path: Path | None, output: Path | None = None) -> tuple[dict[str, Any], Path]:
    """The same on one page; where it is written."""
    from perse_compile.report.show import write_page

    return write_page(path or only_program(), output)


# --- tune -------------------------------------------------------------------------------------------------


def tune(
    path: Path | None,
    target: str,
    *,
    device: str | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    database: Path | None = None,
    threads: int = 1,
    follow: Callable[[dict[str, Any], str], None] = lambda summary, what: None,
) -> dict[str, Any]:
    """Search for the fastest kernels of a program on a device; what is found goes to the database as it comes."""
    from perse_compile import targets
    from perse_compile.program import Program
    from perse_compile.tuning.arithmetic import by_arithmetic
    from perse_compile.tuning.bench import bench_for
    from perse_compile.tuning.database import open_database
    from perse_compile.tuning.prepare import prepare
    from perse_compile.tuning.summary import summary
    from perse_compile.tuning.tune import Budget, Tuning

    def tell(tuning: Tuning, what: str) -> None:
        follow(summary(tuning), what)

    bench = bench_for(targets.load(target), device, threads)
    tuning = prepare(Program.load(path or only_program()), bench, open_database(database), tell)
    if bench.device is None:
        by_arithmetic(tuning)
    else:
        tuning.run(Budget(trials, minutes))
    return summary(tuning)


def export_tuning(file: Path, database: Path | None = None) -> int:
    """What was found here, in a file for others; what comes with the package is not in it."""
    from perse_compile.tuning.database import export_to, open_database

    return export_to(open_database(database, shipped=None), file)


def import_tuning(file: Path, database: Path | None = None) -> tuple[int, int]:
    """What others found, into the database; how many records came, and how many were there."""
    from perse_compile.tuning.database import import_from, open_database

    return import_from(open_database(database), file)


def only_program() -> Path:
    """The one program of this folder."""
    from perse_compile.errors import ProgramError

    found = sorted(Path().glob("*.perse"))
    if not found:
        raise ProgramError("no .perse program in this folder; make one with `perse-compile insert-exits MODEL`")
    if len(found) > 1:
        raise ProgramError(f"several programs in this folder: {', '.join(map(str, found))}; say which to build")
    return found[0]
