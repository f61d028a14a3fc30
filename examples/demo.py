"""The main job from end to end: put exits into a network, compile it for two devices, make it two people's own.

python examples/demo.py [--all-users]

Real images and the bundled network (see README.md beside this file); nothing is downloaded. Works in ./demo, which is
made anew. Every command it runs is printed as a person would type it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).resolve().parent
DEMO = EXAMPLES.parent / "demo"
PROGRAM = "fashion_shufflenet"
HOST_TARGETS = {"x86_64": "x86_64-linux", "aarch64": "arm64-linux"}
PHONE = "arm64-android"
EMULATOR = "qemu-aarch64-static"
CAMERAS = {
    "anna": "a little dark",
    "ben": "out of focus",
    "carla": "dark, less contrast",
    "dmitri": "tilted by 25 degrees",
    "eve": "noisy",
}
LABELLED, UNLABELLED = "dmitri", "anna"


@dataclass(frozen=True)
class Outcome:
    """One user's heads before and after, measured on images that took no part in anything else."""

    user: str
    labels: bool
    before: dict[str, Any]
    after: dict[str, Any]


# --- running commands -------------------------------------------------------------------------------------


def fail(message: str) -> None:
    sys.exit(f"demo: {message}")


def show(command: list[str]) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)


def perse_compile(*arguments: str, quiet: bool = False) -> str:
    """The installed command, in the demo's folder. Quiet: neither shown nor printed; its output is returned."""
    script = Path(sys.executable).with_name("perse-compile")
    if not quiet:
        show(["perse-compile", *arguments])
    result = subprocess.run([script, *arguments], cwd=DEMO, stdout=subprocess.PIPE if quiet else None, text=True)
    if result.returncode != 0:
        fail(f"`perse-compile {shlex.join(arguments)}` failed with status {result.returncode}")
    return result.stdout or ""


def evaluate(artifact: str, user: str, *options: str) -> dict[str, Any]:
    """Figures on the user's test images."""
    arguments = ["evaluate", artifact, "--data", f"../examples/users/{user}-test.npz", *options, "--json"]
    show(["perse-compile", *arguments])
    figures: dict[str, Any] = json.loads(perse_compile(*arguments, quiet=True))
    print(
        f"{figures['samples']} images: accuracy {figures['accuracy']:.1%} at {figures['cost']:.1%} of the work,"
        f" {figures['ms_mean']:.2f} ms an image"
    )
    return figures


@contextlib.contextmanager
def chapter(title: str) -> Iterator[None]:
    start = time.monotonic()
    print(f"\n=== {title}", flush=True)
    yield
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


# --- the users' pictures ----------------------------------------------------------------------------------


def save_pictures(user: str, part: str, folder: Path, most: int | None = None) -> list[Path]:
    """A user's images as PNG files in one flat folder, in other words without their labels."""
    folder.mkdir()
    paths = []
    for index, pixels in enumerate(np.load(EXAMPLES / "users" / f"{user}-{part}.npz")["images"][:most]):
        paths.append(folder / f"{index:03}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def personalise(artifact: str, user: str, labels: bool) -> Outcome:
    """From factory heads: measure, learn, measure."""
    data = f"../examples/users/{user}-train.npz"
    if not labels:
        save_pictures(user, "train", DEMO / f"{user}-photos")
        data = f"{user}-photos"
    before = evaluate(artifact, user)
    perse_compile("personalise", artifact, "--data", data)
    return Outcome(user, labels, before, evaluate(artifact, user))


# --- the table --------------------------------------------------------------------------------------------


def outcome_table(outcomes: list[Outcome]) -> Table:
    exits = [exit["name"] for exit in outcomes[0].before["exits"]]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns are enough
    for name in ("user", "labels", "heads"):
        table.add_column(name)
    for name in ("accuracy", *exits, "ms", "cost"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        for heads, figures in (("before", outcome.before), ("after", outcome.after)):
            first = heads == "before"
            shares = [f"{exit['share']:.0%}" for exit in figures["exits"]]
            row = [f"{figures['accuracy']:.1%}", *shares, f"{figures['ms_mean']:.2f}", f"{figures['cost']:.1%}"]
            who = [outcome.user, "yes" if outcome.labels else "no"] if first else ["", ""]
            table.add_row(*who, heads, *row, end_section=not first)
    return table


def print_outcomes(outcomes: list[Outcome], full_ms: float) -> None:
    images = outcomes[0].before["samples"]
    print(f"\nBefore and after, each on that user's own {images} test images, which nothing learnt from:\n")
    Console(width=80).print(outcome_table(outcomes))
    print(
        "exit0 ... final: share of the images that exit answered. cost: mean work, as a share\n"
        f"of the whole network's. ms: mean on this machine, one thread; the whole network takes\n{full_ms:.2f}."
    )
    for user in dict.fromkeys(outcome.user for outcome in outcomes):
        alone = next(outcome for outcome in outcomes if outcome.user == user).before["exits"][-1]["accuracy"]
        print(f"{user}: {CAMERAS[user]}; the network without exits is right on {alone:.1%} of these images.")
    print(f"One image is {1 / images:.1%}: a difference of a few images may be chance.")
    if not all(outcome.labels for outcome in outcomes):
        print("Without labels there is little to gain, and heads that seem no better do not go live.")


# --- the story --------------------------------------------------------------------------------------------


def check_machine() -> tuple[str, list[str]]:
    """This machine's target, and the options that run the phone's executable here."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in HOST_TARGETS:
        fail(f"it runs on Linux on {' or '.join(HOST_TARGETS)}, not on {platform.system()} on {machine}")
    if not Path(sys.executable).with_name("perse-compile").exists():
        fail("perse-compile is not installed beside this Python; `make demo` installs it in .venv and starts this")
    if machine == "aarch64":
        return HOST_TARGETS[machine], []
    if shutil.which(EMULATOR) is None:
        fail(f"{EMULATOR} is missing, which runs the ARM executable here: apt-get install qemu-user-static")
    return HOST_TARGETS[machine], ["--device", "emulator"]


def start_folder() -> None:
    """An empty ./demo; a folder of that name that is not ours stays."""
    marker = DEMO / ".made-by-demo"
    if DEMO.exists() and not marker.exists() and any(DEMO.iterdir()):
        fail(f"{DEMO} is there and was not made by this script; move it away")
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    marker.touch()


def make_artifacts(host_target: str) -> None:
    with chapter("1  Put exits into a network, and train them on the host (heads only)"):
        os.environ["PYTHONPATH"] = str(EXAMPLES)  # where model.py is
        weights = "../examples/fashion_mnist_shufflenet.safetensors"
        print("\n$ export PYTHONPATH=../examples   # the network is a function in examples/model.py")
        perse_compile("insert-exits", f"model:{PROGRAM}", "--weights", weights)
        perse_compile("train-exits", f"{PROGRAM}.perse", "--data", "../examples/fashion_mnist_train.npz")
    with chapter("2  Compile it, for this machine and for an Android phone"):
        perse_compile("build", "--target", host_target)
        perse_compile("build", "--target", PHONE)


def learn(artifact: str, everyone: bool) -> list[Outcome]:
    pairs = [(user, labels) for user in CAMERAS for labels in (True, False)] if everyone else []
    outcomes = []
    for user, labels in pairs or [(LABELLED, True), (UNLABELLED, False)]:
        with chapter(f"3  {user} ({CAMERAS[user]}) {'with' if labels else 'without'} labels"):
            if outcomes:
                perse_compile("personalise", artifact, "--reset")
            outcomes.append(personalise(artifact, user, labels))
            shutil.copyfile(DEMO / artifact / "heads.pack", heads_of(user, labels))
    return outcomes


def heads_of(user: str, labels: bool) -> Path:
    return DEMO / f"{user}{'' if labels else '-unlabelled'}.heads.pack"


def carry_to_phone(phone: str, options: list[str]) -> dict[str, Any]:
    with chapter(f"4  {LABELLED}'s heads, learnt here, on the phone's executable"):
        show(["cp", heads_of(LABELLED, True).name, f"{phone}/heads.pack"])
        shutil.copyfile(heads_of(LABELLED, True), DEMO / phone / "heads.pack")
        figures = evaluate(phone, LABELLED, *options)
        [picture] = save_pictures(LABELLED, "test", DEMO / "pictures", 1)
        perse_compile("run", phone, str(picture.relative_to(DEMO)), *options)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all-users", action="store_true", help="all five users, each with and without labels")
    arguments = parser.parse_args()
    start = time.monotonic()
    host_target, options = check_machine()
    start_folder()
    host, phone = f"{PROGRAM}-{host_target}", f"{PROGRAM}-{PHONE}"
    print(
        "Commands run in ./demo; `perse-compile` is", os.path.relpath(Path(sys.executable).with_name("perse-compile"))
    )
    make_artifacts(host_target)
    outcomes = learn(host, arguments.all_users)
    on_phone = carry_to_phone(phone, options)
    bench = subprocess.run([DEMO / host / "perse", "bench", "--json"], capture_output=True, text=True, check=True)
    print_outcomes(outcomes, json.loads(bench.stdout)["full_ms"])
    same = next(outcome.after for outcome in outcomes if outcome.user == LABELLED and outcome.labels)
    where = "under the emulator" if options else "on this machine"
    print(f"""
Every exit of the {PHONE} executable was verified against PyTorch {where}.
With {LABELLED}'s heads it is right on {on_phone["accuracy"]:.1%} of his test images, as here ({same["accuracy"]:.1%}).

  demo/{phone}/   copy this folder to a phone: `perse` needs nothing else
  demo/{host}/
  demo/{phone}/report.html   look at it in a browser

{time.monotonic() - start:.0f} seconds in all.""")
    if not arguments.all_users:
        print("The other users, with and without labels: python examples/demo.py --all-users")


if __name__ == "__main__":
    main()
