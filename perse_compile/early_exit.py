"""A program as a torch module that stops early, image by image, as its artifact does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from perse_compile import ops
from perse_compile.errors import ArtifactError, PassError
from perse_compile.exit_nodes import feature_nodes
from perse_compile.manifest import Floats, heads_id, read_pack
from perse_compile.program import Exit, Program, Stage, make_module

PARTS = ("shift", "scale", "weight", "bias")  # of a head
GRAYS = 256
FEWEST_GRAYS, DARK, BRIGHT, FARTHER = 8, 1, 250, 5  # as in runtime/levels.c


class Answers(NamedTuple):
    """Of a batch of N images."""

    labels: Tensor  # [N] int64
    confidence: Tensor  # [N]
    exits: Tensor  # [N] int64, which exit answered
    probabilities: Tensor  # [N,K], of the classes that `EarlyExit.classes` names


class EarlyExit(nn.Module):
    """The stages of a program, one after the other, on the images that no exit was sure of yet.

    `use_pack` gives it one person's heads. The module's tensors are the program's own until then.
    """

    def __init__(self, program: Program) -> None:
        """Raises PassError when the program has no exits."""
        super().__init__()
        if not program.stages:
            raise PassError(f"{program.name} has no exits; run insert-exits before making it a module")
        self.classes = list(program.classes)
        self.names = [exit.name for exit in program.exits]
        self.enabled = [exit.enabled for exit in program.exits]
        self.temperatures = [exit.temperature for exit in program.exits]
        self.thresholds = [exit.threshold for exit in program.exits]
        self.stages = nn.ModuleList(_stage(program, stage) for stage in program.stages)
        self.features = nn.ModuleList(_features(program, exit) for exit in program.exits)
        self.heads = nn.ModuleList(_head(program, name) for name in self.names)
        for name, values in (("mean", program.input.mean), ("std", program.input.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))
        self.register_buffer("camera", None)  # [C,256]: what becomes of a person's pixels, None when they stay
        self._program, self._levels = program, program.levels
        self.eval()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Answers:
        """(N,C,H,W): uint8 pixels, which are corrected for the camera and normalised here, or normalised floats."""
        x = self._normalised(x) if x.dtype == torch.uint8 else x
        left = torch.arange(len(x), device=x.device)
        found: Any = None
        for number, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x = stage(x)
            last = number == len(self.stages) - 1
            if not (self.enabled[number] or last):
                continue
            logits = ops.head(self.features[number](x), *(getattr(head, part) for part in PARTS))
            logits = logits[:, : len(self.classes)]  # without spare outputs, which nobody has taught
            probabilities = torch.softmax(logits / self.temperatures[number], 1)
            if found is None:
                found = torch.zeros(len(left), probabilities.shape[1], device=x.device), torch.zeros_like(left)
            sure = torch.ones_like(left, dtype=torch.bool) if last else probabilities.amax(1) >= self.thresholds[number]
            found[0][left[sure]], found[1][left[sure]] = probabilities[sure], number
            x, left = x[~sure], left[~sure]
            if not len(left):
                break
        confidence, labels = found[0].max(1)
        return Answers(labels, confidence, found[1], found[0])

    def use_pack(self, path: Path | str) -> EarlyExit:
        """Heads, thresholds, new classes and camera of a heads.pack. Raises ArtifactError if of another network."""
        pack = read_pack(Path(path))
        if (pack.heads_id, pack.spare) != (heads_id(self._program), self._program.spare):
            raise ArtifactError(f"{path} belongs to another network than {self._program.name}; give one of its own")
        for head, packed in zip(self.heads, pack.exits, strict=True):
            for part in PARTS:
                head.register_buffer(part, torch.from_numpy(np.array(getattr(packed, part))))
        self.classes = [*self._program.classes, *pack.new_classes]
        self.enabled = [exit.enabled for exit in pack.exits]
        self.temperatures = [exit.temperature for exit in pack.exits]
        self.thresholds = [exit.threshold for exit in pack.exits]
        self.camera = _camera(pack.levels, np.array(self._levels, np.float32)) if self._levels else None
        return self

    def _normalised(self, pixels: Tensor) -> Tensor:
        if self.camera is not None:
            planes = [self.camera[c][plane.long()] for c, plane in enumerate(pixels.unbind(1))]
            pixels = torch.stack(planes, 1)
        return (pixels.float() / 255 - self.mean) / self.std  # type: ignore[operator]


def _stage(program: Program, stage: Stage) -> fx.GraphModule:
    """From its input to its tap."""
    return _part(program, stage.input, set(stage.nodes), stage.output)


def _features(program: Program, exit: Exit) -> fx.GraphModule:
    """From its tap to what its head reads."""
    nodes = feature_nodes(program, exit)
    wanted = {node.name for node in nodes} | {
        n.name for node in nodes for n in node.all_input_nodes if n.op == "get_attr"
    }
    return _part(program, exit.tap, wanted, nodes[-1].name)


def _part(program: Program, source: str, wanted: set[str], result: str) -> fx.GraphModule:
    """Of these nodes alone, which read nothing else but `source`."""
    graph, made = fx.Graph(), dict[str, fx.Node]()
    made[source] = graph.placeholder("x")
    for node in program.module.graph.nodes:
        if node.name in wanted:
            made[node.name] = graph.node_copy(node, lambda one: made[one.name])
    graph.output(made[result])
    return make_module(graph, program.tensors(), program.name)


def _head(program: Program, name: str) -> nn.Module:
    head = nn.Module()
    for part in PARTS:
        head.register_buffer(part, program.tensor(f"{name}.{part}"))
    return head


def _camera(own: Floats, factory: Floats) -> Tensor | None:
    """The table of runtime/levels.c, bit by bit."""
    if not own.any() or not factory.any():
        return None
    tables = []
    for low, high, to_low, to_high in np.concatenate([own, factory], 1).astype(np.float64):
        clipped = (low < DARK and to_low > low + FARTHER) or (high >= BRIGHT and to_high < high - FARTHER)
        if high - low < FEWEST_GRAYS or to_high - to_low < FEWEST_GRAYS or clipped:
            return None
        out = np.floor((np.arange(GRAYS) - low) * ((to_high - to_low) / (high - low)) + to_low + 0.5)
        tables.append(np.clip(out, 0, GRAYS - 1).astype(np.uint8))
    return torch.from_numpy(np.stack(tables))
