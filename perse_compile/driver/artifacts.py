"""Artifacts at work, on this machine or another: personalise, evaluate, run, bench, study, and their heads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perse_compile.console import Tell
    from perse_compile.personalise.session import Session


@contextmanager
def open_session(
    folder: Path,
    device: str | None,
    threads: int | None = None,
    *,
    pack: str | None = None,
    check_pack: bool = True,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> Iterator[Session]:
    """A checked artifact on a device; it is pushed where it is not there yet. `notice` hears of changed heads."""
    from perse_compile import devices
    from perse_compile.artifact import open_artifact
    from perse_compile.personalise.placing import place
    from perse_compile.personalise.session import Session

    artifact = open_artifact(folder, check_pack=check_pack)
    with devices.find(device, artifact.machine, artifact.emulator) as found:
        place(artifact, found, progress or (lambda what, done, total: None), notice)
        yield Session(artifact, found, threads or (os.cpu_count() or 1 if found.kind == "emulator" else 1), pack)


def personalise(
    folder: Path,
    data: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    pack: str | None = None,
    new_classes: Sequence[str] = (),
    options: dict[str, str] | None = None,
    before: Callable[[dict[str, Any]], None] | None = None,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Decode here, train there; heads.pack changes only if the new heads are better. `before` hears the estimate.

    `new_classes`: names that the network never had, of images among `data`; they take spare outputs.
    """
    from perse_compile.report.keep import keep_of

    with open_session(folder, device, threads, pack=pack, progress=progress, notice=notice) as session:
        images = session.read(data, progress, new_classes)
        if before is not None:
            before(session.estimate(len(images.pixels), options or {}))
        found = session.personalise(images, options or {}, progress, new_classes)
        keep_of(session, "personalise", found, images.name, notice)
        return found


def estimate(
    folder: Path,
    images: int,
    *,
    device: str | None = None,
    threads: int | None = None,
    pack: str | None = None,
    options: dict[str, str] | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """What personalising with so many images would take there."""
    with open_session(folder, device, threads, pack=pack, notice=notice) as session:
        return session.estimate(images, options or {})


def evaluate(
    folder: Path,
    data: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    pack: str | None = None,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Figures of the live heads on labelled images."""
    from perse_compile.report.keep import keep_of

    with open_session(folder, device, threads, pack=pack, progress=progress, notice=notice) as session:
        images = session.read(data, progress)
        found = session.evaluate(images, progress)
        keep_of(session, "evaluate", found, images.name, notice)
        return found


def run(
    folder: Path,
    images: Sequence[Any],
    *,
    device: str | None = None,
    threads: int | None = None,
    pack: str | None = None,
    probabilities: bool = False,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """One answer per picture: a path, or an image as personalise/picture.py takes it."""
    with open_session(folder, device, threads, pack=pack, progress=progress, notice=notice) as session:
        names = [str(image) if isinstance(image, str | Path) else "" for image in images]
        answers = [session.run(image, probabilities) for image in images]
        return [{"image": name, **answer} for name, answer in zip(names, answers, strict=True)]


def bench(
    folder: Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    progress: Tell | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """How long every exit takes there."""
    from perse_compile.report.keep import keep_of

    with open_session(folder, device, threads, progress=progress, notice=notice) as session:
        found = {"device": session.device.name, "kind": session.device.kind, **session.simple("bench")}
        keep_of(session, "bench", found, None, notice)
        return found


def study(
    folder: Path,
    data: Path,
    *,
    output: Path | None = None,
    program: Path | None = None,
    progress: Tell,
    notice: Callable[[str], None] = lambda what: None,
    **options: Any,
) -> dict[str, Any]:
    """Simulated people on an artifact; `options` are the fields of Plan. Results are kept in `output` as they come."""
    from perse_compile.artifact import open_artifact
    from perse_compile.report.keep import keep
    from perse_compile.study.plan import Plan
    from perse_compile.study.study import run

    found = run(folder, data, Plan(**options), output or Path(f"study-{folder.resolve().name}"), program, progress)
    if found["people"]["count"]:
        keep(open_artifact(folder, check_pack=False), "study", found, notice)
    return found


def restore_heads(
    folder: Path,
    how: str,
    *,
    device: str | None = None,
    pack: str | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """`rollback` or `reset`, by the artifact's own executable; a damaged heads.pack is no obstacle."""
    from perse_compile.report.keep import renew

    with open_session(folder, device, 1, pack=pack, check_pack=False, notice=notice) as session:
        found = session.simple(how)
        if pack is None:
            renew(session.artifact, notice)
        return found


def packs(
    folder: Path, *, device: str | None = None, notice: Callable[[str], None] = lambda what: None
) -> list[dict[str, Any]]:
    """The packs there, the artifact's own first, under the name "": how often each changed, and whether it is sound."""
    with open_session(folder, device, 1, check_pack=False, notice=notice) as session:
        return list(session.simple("packs")["packs"])


def exits(
    folder: Path,
    *,
    enable: str | None = None,
    disable: str | None = None,
    device: str | None = None,
    pack: str | None = None,
    notice: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """What every exit costs there and whether it is on, after switching one on or off by name."""
    from perse_compile.report.keep import renew

    with open_session(folder, device, 1, pack=pack, notice=notice) as session:
        words = [
            word for name, value in (("--enable", enable), ("--disable", disable)) if value for word in (name, value)
        ]
        found = session.simple("exits", *words)
        if words and pack is None:
            renew(session.artifact, notice)
        return found


def push(
    folder: Path, device: str, *, progress: Tell | None = None, notice: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """The artifact onto a device; where it lies there and how to run it."""
    from perse_compile.devices.remote import RemoteDevice
    from perse_compile.errors import DeviceError

    with open_session(folder, device, progress=progress, notice=notice) as session:
        there, home = session.device, session.device.home(folder)
        if not isinstance(there, RemoteDevice):
            raise DeviceError(f"an artifact runs on {there.name} from where it is; push it to ssh://... or adb")
        return {"device": there.name, "folder": f"{there.work}/{home}", "run": there.command_line(f"{home}/perse")}
