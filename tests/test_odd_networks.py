"""Networks of the kind that people bring: the same answer at every exit, or the right message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perse_compile import targets
from perse_compile.building.build import build, normalised, probe_images, reference_logits
from perse_compile.passes import default_pipeline
from perse_compile.pipeline import run
from perse_compile.program import Program
from perse_compile.same_function import SameFunction
from tests import odd_networks, published_networks
from tests.artifacts import emulator
from tests.helpers import traced


def as_written(network: nn.Module, pixels: np.ndarray, program: Program) -> np.ndarray:
    """What the author's own code answers."""
    with torch.no_grad():
        return network(normalised(pixels, program.input)).numpy()


@pytest.mark.parametrize("kind", (*odd_networks.ALL, *published_networks.ALL), ids=lambda kind: kind.__name__)
def test_the_same_at_every_exit(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = kind()
    program = run(traced(network, kind.__name__), default_pipeline(3), [SameFunction()])
    assert len(program.exits) == 4
    pixels = probe_images(program.input)
    mine, theirs = reference_logits(program, pixels)[:, -1], as_written(network, pixels, program)
    if kind.__name__ == "Gray":  # exits work on logits: the log-softmax at its end is taken off
        mine = torch.log_softmax(torch.from_numpy(mine), 1).numpy()
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 * float(np.abs(theirs).max()))
    program.save(tmp_path / "odd.perse")
    built = build(Program.load(tmp_path / "odd.perse"), targets.load("x86_64-linux"), tmp_path / "odd")
    assert built.selftest is not None
    assert [exit["stages"] for exit in built.selftest["exits"]] == [1, 2, 3, 4]
    assert max(exit["max_rel_diff"] for exit in built.selftest["exits"]) < 5e-5


@pytest.mark.arm
@pytest.mark.parametrize("kind", [published_networks.Retrieval, published_networks.MaxViT])
@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux"])
def test_the_same_on_arm(target: str, kind: type[nn.Module], tmp_path: Path) -> None:
    """Powers, logarithms, exponentials, products of two tensors, and everything else of these networks."""
    emulator(target)
    torch.manual_seed(0)
    program = run(traced(kind(), kind.__name__), default_pipeline())
    built = build(program, targets.load(target), tmp_path / "network")
    assert built.selftest is not None
    assert max(exit["max_rel_diff"] for exit in built.selftest["exits"]) < 5e-5
