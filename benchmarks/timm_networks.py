"""How many networks of timm, which nobody here wrote or chose, are traced, get exits, and compile.

    pip install timm
    python benchmarks/timm_networks.py [--most 32] [--jobs 2] [--build] [NAME ...]

Every network of timm with at most so many million parameters, at its own input size and with random weights; not the
transformers that have no convolution but the one that cuts the image up (NO_CNNS). Every pass is checked: the graph
must compute what the network does. --build compiles the smallest of each family for this machine, too, and compares
every exit with PyTorch. Prints a line a network, and at the end how many failed, and why.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import re
import tempfile
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch

from perse_compile import targets
from perse_compile.building.build import build
from perse_compile.driver import insert_exits
from perse_compile.errors import PerseError

NO_CNNS = {
    "beit", "cait", "convit", "crossvit", "davit", "deepseek_vit", "deit", "eva", "gemma4_vit", "hiera",
    "hieradet_sam2", "mlp_mixer", "mvitv2", "naflexvit", "nest", "pit", "qwen3_vit", "swin_transformer",
    "swin_transformer_v2", "swin_transformer_v2_cr", "tnt", "twins", "vision_transformer", "vision_transformer_hybrid",
    "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "volo", "xcit",
}  # fmt: skip


def networks(most: float, names: list[str]) -> list[tuple[str, str, int, int]]:
    """(family, name, side of the image, parameters), small ones first."""
    timm = importlib.import_module("timm")
    family_of: dict[str, str] = importlib.import_module("timm.models._registry")._model_to_module
    found = []
    for name in names or timm.list_models():
        if family_of[name] in NO_CNNS:
            continue
        with torch.device("meta"):
            parameters = sum(p.numel() for p in timm.create_model(name).parameters())
        config = timm.get_pretrained_cfg(name)
        if parameters <= most * 1e6:
            found.append((family_of[name], name, config.input_size[-1] if config else 224, parameters))
    return sorted(found, key=lambda network: network[3])


def trial(compiled: set[str], network: tuple[str, str, int, int]) -> tuple[str, str, str]:
    """Name, what failed or "", and a line to print."""
    family, name, side, parameters = network
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start, off, failed = time.time(), 0.0, ""
    try:
        program = insert_exits(f"timm.models.{family}:{name}", weights="none", input_size=(side, side))
        if name in compiled:
            with tempfile.TemporaryDirectory() as folder:
                built = build(program, targets.load("x86_64-linux"), Path(folder) / name)
            exits: list[Any] = built.selftest["exits"] if built.selftest else []
            off = max(exit["max_rel_diff"] for exit in exits)
    except PerseError as error:
        failed = str(error)
    exact = f", built, off by {off:.1e}" if name in compiled and not failed else ""
    told = f"{name}: {parameters / 1e6:.1f} M, {time.time() - start:.0f} s{exact} {failed}"
    return name, failed, told


def reason(failed: str) -> str:
    """Without the names and numbers of one network."""
    short = re.sub(r"^.*?node \w+ \((\w+).*?\): ", r"\1: ", failed)
    return re.sub(r"\d+", "#", re.sub(r"^\w+ computes", "computes", short))[:150]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--most", type=float, default=32, help="million parameters")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--build", action="store_true")
    options = parser.parse_args()
    found = networks(options.most, options.names)
    smallest = {family: name for family, name, *_ in reversed(found)}
    wanted = options.names or smallest.values()
    compiled = set(wanted) if options.build else set()
    failures: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=20) as pool:
        for _, failed, told in pool.imap_unordered(partial(trial, compiled), found):
            print(told, flush=True)
            if failed:
                failures[reason(failed)] += 1
    print(f"\n{len(found)} networks, {len(compiled)} of them built; {sum(failures.values())} failed")
    for why, count in failures.most_common():
        print(f"{count:4} {why}")


if __name__ == "__main__":
    main()
