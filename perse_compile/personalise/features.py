"""What the frozen backbone leaves for the exits of a program, image by image, on the host."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.backends import cudnn

from perse_compile.exit_nodes import feature_nodes
from perse_compile.program import InputSpec, Program

CHUNK = 64  # images per run of the backbone
Progress = Callable[[str, int, int], None]  # what is being done, done, total


def extract_features(program: Program, pixels: NDArray[np.uint8], device: str, tell: Progress) -> list[Tensor]:
    """Pooled features of every exit, [N,F] each, on the CPU; the backbone runs once per image.

    Of a bottleneck these are the means that its projection reads. On a GPU they are computed in full float32, as the
    device does: TF32, which cuDNN prefers, is 4e-4 off where this is 4e-7.
    """
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    backbone = feature_module(program)
    if place.type != "cpu":
        backbone = copy.deepcopy(backbone).to(place)  # the program's own tensors stay where they are
    found: list[list[Tensor]] = []
    with torch.no_grad(), cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=False):
        for start in range(0, len(pixels), CHUNK):
            x = normalise(torch.from_numpy(pixels[start : start + CHUNK]).to(place), program.input)
            found.append([features.cpu() for features in backbone(x)])
            tell("features", min(start + CHUNK, len(pixels)), len(pixels))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def normalise(pixels: Tensor, spec: InputSpec) -> Tensor:
    """uint8 (N,H,W,C) -> the network's input, (N,C,H,W) in channels-last order."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (spec.mean, spec.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def feature_module(program: Program) -> fx.GraphModule:
    """The program with what pool_features gives at every exit as its outputs."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(program.module.graph, copies)
    graph.output(tuple(copies[feature_nodes(program, exit)[0]] for exit in program.exits))
    graph.eliminate_dead_code()
    return fx.GraphModule(program.module, graph).eval()
