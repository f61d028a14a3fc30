"""Every CNN classifier of torchvision through the whole path; writes docs/coverage.md.

    python benchmarks/coverage.py [--only NAME ...] [--family NAME ...] [--again] [--page] [--work FOLDER] [--json]

The smallest networks come first. Columns, each of which needs those before it:
  trace        torch.fx traces it
  exits        exits are placed and inserted, the program computes what the traced network does, is saved and loaded
  host         compiled for x86_64-linux; every exit equals PyTorch's (difference, of the greatest logit: <= 1e-3)
  train        steps of every head's trainer on the host equal PyTorch's (losses and weights: <= 1e-4)
  arm64        as host, for arm64-android, under the emulator (one image; of networks over 10 GMACs, smaller ones)
  train_arm64  as train, under the emulator
Weights are torchvision's where they can be had; otherwise random ones in which every layer shows (coverage_network.py).

A finished network is a line of benchmarks/results/coverage.jsonl, written at once. What was finished with this code
(commit of perse_compile/, passes/ and targets/) and these versions is not done again, unless --again: stop and go on as
you like. A network that fails is recorded with its error, and is tried again by the next run. --page only writes the
page. Exit status 1 when one of the chosen networks failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import coverage_page
import torchvision
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from perse_compile import driver

ROOT = Path(__file__).parents[1]
RECORDS, PAGE = ROOT / "benchmarks" / "results" / "coverage.jsonl", ROOT / "docs" / "coverage.md"
CODE = ("perse_compile", "passes", "targets")
PACKAGES = ("torch", "torchvision", "apache-tvm", "ziglang")
SECONDS, SECONDS_OF_GMAC = 60.0, 7.0  # a guess for the bar: of any network, and of emulation
Record = dict[str, Any]


def main() -> None:
    options = arguments()
    catalogue = {name: work_of(name) for name in driver.list_models()}
    records = read(RECORDS)
    now = {"code": code_version(), "versions": {name: version(name) for name in PACKAGES}}
    chosen = [name for name in sorted(catalogue, key=lambda name: catalogue[name]) if wanted(name, options)]
    unknown = set(options.only) - set(catalogue)
    if unknown or not chosen:
        raise SystemExit(f"no such network: {', '.join(unknown) or options.family}; `perse-compile models` lists them")
    due = [] if options.page else [n for n in chosen if options.again or not is_current(records.get(n), now)]
    try:
        for record in progress(due, catalogue, Path(options.work), now):
            append(RECORDS, record)
            records[record["network"]] = record
            write_page(records, list(catalogue))
    except KeyboardInterrupt:
        print(f"stopped; what is finished is in {RECORDS}, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    write_page(records, list(catalogue))
    done = [records[name] for name in chosen if name in records]
    if options.json:
        print(json.dumps(done, indent=2))
    raise SystemExit(0 if options.page or (len(done) == len(chosen) and all(r["ok"] for r in done)) else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these networks")
    parser.add_argument("--family", nargs="+", default=[], metavar="NAME", help="networks whose names begin so")
    parser.add_argument("--again", action="store_true", help="also what was finished with this code")
    parser.add_argument("--page", action="store_true", help="only write docs/coverage.md from the records")
    parser.add_argument(
        "--work", default=tempfile.gettempdir(), help="where artifacts are built, one network at a time"
    )
    parser.add_argument("--json", action="store_true", help="print the records")
    return parser.parse_args()


def wanted(name: str, options: argparse.Namespace) -> bool:
    everything = not options.only and not options.family
    return everything or name in options.only or name.startswith(tuple(options.family) or ("\0",))


def work_of(name: str) -> float:
    """GMACs at the size that its weights were trained for, as torchvision states them."""
    return float(torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"])


def code_version() -> str:
    """The last commit that changed what is measured, with "+" if it was changed since."""
    words = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*words, "log", "-1", "--format=%h", "--", *CODE], capture_output=True, text=True, check=True
    )
    changed = subprocess.run([*words, "status", "--porcelain", "--", *CODE], capture_output=True, text=True, check=True)
    return commit.stdout.strip() + "+" * bool(changed.stdout.strip())


# --- records ----------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Record]:
    """The last record of every network; a line cut short by a crash is none."""
    found: dict[str, Record] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["network"]] = record
    return found


def append(path: Path, record: Record) -> None:
    path.parent.mkdir(exist_ok=True)
    broken = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * broken + json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def is_current(record: Record | None, now: Record) -> bool:
    return record is not None and record["ok"] and all(record[key] == now[key] for key in now)


def write_page(records: dict[str, Record], names: list[str]) -> None:
    temporary = PAGE.with_suffix(".new")
    temporary.write_text(coverage_page.page(records, names), encoding="utf-8")
    temporary.replace(PAGE)


# --- the run ----------------------------------------------------------------------------------------------


def progress(due: list[str], catalogue: dict[str, float], work: Path, now: Record) -> Any:
    """Run one network after another, with a bar, and give a record of each."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    guesses = {name: SECONDS + SECONDS_OF_GMAC * catalogue[name] for name in due}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=sum(guesses.values()))
        for number, name in enumerate(due, 1):
            title = f"{number} of {len(due)}: {name}"
            bar.update(task, description=title)
            columns_of = run(name, work, lambda what, title=title: bar.update(task, description=f"{title}, {what}"))
            bar.advance(task, guesses[name])
            record = {"network": name, **now, "date": time.strftime("%Y-%m-%d"), **columns_of}
            bar.console.print(summary(record), highlight=False, soft_wrap=True)
            yield record


def run(name: str, work: Path, follow: Callable[[str], None]) -> Record:
    """One network in a process of its own: {"ok": ..., column: facts}. A crash costs only the columns after it."""
    program = [sys.executable, str(Path(__file__).with_name("coverage_network.py"))]
    found: Record = {"ok": False}
    begun, complaint = "start", ""
    with tempfile.TemporaryDirectory(prefix="coverage-", dir=work) as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([*program, name, folder], stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                facts = json.loads(line)
                begun = facts.pop("begun", begun)
                if "column" in facts:
                    found[facts.pop("column")] = facts
                follow(begun)
        finally:
            process.terminate()
            process.wait()
        errors.seek(0)
        complaint = (errors.read().strip().splitlines() or [""])[-1]
    if begun not in found:
        why = signal.Signals(-process.returncode).name if process.returncode < 0 else complaint
        found[begun] = {"ok": False, "error": f"the process ended: {why}"}
    found["ok"] = process.returncode == 0
    return found


def summary(record: Record) -> str:
    told = []
    for title in coverage_page.COLUMNS:
        facts = record.get(title)
        if facts is None:
            continue
        worst = max(facts.get("differences", {}).values(), default=None)
        told.append(f"{title} {facts['seconds']:.0f} s" + ("" if worst is None else f" {worst:.1e}") if facts["ok"]
                    else f"{title} FAILED: {facts['error']}")  # fmt: skip
    return f"{record['network']:20} {', '.join(told)}"


if __name__ == "__main__":
    main()
