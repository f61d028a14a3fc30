"""A baseline in PyTorch, in a process of its own so that its memory can be told:

    python -m perse_compile.study.finetune PROGRAM DATA.npz full|no-cache EPOCHS THREADS SEED

full: every weight of the network learns (batch norms are folded into convolutions, as in the artifact), Adam, the
learning rate falls along a cosine. no-cache: only the heads learn, all at once, and the backbone runs anew for every
batch of every epoch. Both learn from the labelled images alone, cross entropy, batches of 32.

Prints JSON: seconds of training, bytes of memory at most and before the network was loaded, and accuracy per exit on
the test images (of `full` the final exit only).
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from perse_compile.personalise.features import normalise
from perse_compile.program import Program

BATCH = 32
RATES = {"full": 3e-4, "no-cache": 3e-3}  # the first chosen on users of the development population
FIXED = (".shift", ".scale")  # of heads: how features are standardised


def main(arguments: list[str]) -> None:
    program_path, data_path, method, epochs, threads, seed = arguments
    torch.set_num_threads(int(threads))
    torch.manual_seed(int(seed))
    before = memory("VmRSS")
    program = Program.load(Path(program_path))
    with np.load(data_path) as data:
        images = {name: data[name] for name in ("train", "train_labels", "test", "test_labels")}
    network = trainable(program, method)
    start = time.monotonic()
    train(network, program, images["train"], torch.from_numpy(images["train_labels"]), method, int(epochs))
    seconds, peak = time.monotonic() - start, memory("VmHWM")
    accuracy = measure(network, program, images["test"], torch.from_numpy(images["test_labels"]))
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "before_bytes": before, "accuracy": accuracy}))


def trainable(program: Program, method: str) -> fx.GraphModule:
    """The network with what may learn as parameters; a tuple of logits per exit, of `full` of the final exit."""
    network = program.module
    heads = tuple(f"{exit.name}." for exit in program.exits)
    for name, tensor in program.tensors().items():
        if tensor.is_floating_point() and not name.endswith(FIXED) and (method == "full" or name.startswith(heads)):
            path, _, leaf = name.rpartition(".")
            owner = network.get_submodule(path)
            del owner._buffers[leaf]
            owner.register_parameter(leaf, nn.Parameter(tensor))
    if method == "full":
        output = network.graph.output_node()
        answers = output.args[0]
        output.args = (answers[-1:] if isinstance(answers, tuple | list) else (answers,),)
        network.graph.eliminate_dead_code()
        network.recompile()
    return network


def train(network: nn.Module, program: Program, pixels: np.ndarray, labels: Tensor, method: str, epochs: int) -> None:
    known = torch.nonzero(labels >= 0).flatten()
    optimizer = torch.optim.Adam(network.parameters(), RATES[method])
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = RATES[method] * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        for part in torch.split(known[torch.randperm(len(known))], BATCH):
            outputs = network(normalise(torch.from_numpy(pixels[part.numpy()]), program.input))
            loss = torch.stack([F.cross_entropy(logits, labels[part]) for logits in outputs]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


def measure(network: nn.Module, program: Program, pixels: np.ndarray, labels: Tensor) -> list[float]:
    right = []
    with torch.no_grad():
        for part in torch.split(torch.arange(len(labels)), BATCH):
            outputs = network(normalise(torch.from_numpy(pixels[part.numpy()]), program.input))
            right.append(torch.stack([logits.argmax(1) == labels[part] for logits in outputs]).float().sum(1))
    return [float(value) for value in torch.stack(right).sum(0) / len(labels)]


def memory(what: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since this program began."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main(sys.argv[1:])
