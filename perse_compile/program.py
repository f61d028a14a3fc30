"""Program: what the passes rewrite, and its file format.

A program is one multi-exit network: a torch.fx graph of `perse_compile.ops` over named float32 tensors,
and, as passes add them, its cut points, exits, stages and training graphs. It is saved as one
safetensors file (`.perse`) whose metadata holds everything but the tensors as checked JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import fx


@dataclass(frozen=True)
class InputSpec:
    """The image a network takes, and the normalisation compiled into it: x = (pixel / 255 - mean) / std."""

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class CutPoint:
    """A node that every path from input to output crosses."""

    node: str
    macs: int  # of the backbone up to and including this node, batch 1
    shape: tuple[int, ...]  # without the batch


@dataclass
class Exit:
    """A tap with its head, and when its answer is taken.

    `head` names four tensors of the program's module: `<name>.shift`, `.scale`, `.weight`, `.bias`.
    The last exit is called "final": it always answers.
    """

    name: str
    tap: str  # node the exit reads
    grid: int  # of pool_features
    features: int  # F, length of the pooled features
    macs: int  # of the backbone up to the tap
    temperature: float = 1.0
    threshold: float = 1.0  # top-1 confidence at which the answer is taken
    enabled: bool = False  # an untrained exit never answers


@dataclass
class Stage:
    """Backbone between two taps: straight-line, ends at the tap of the exit of the same position."""

    name: str
    input: str  # node
    output: str  # node (the tap)
    nodes: list[str]  # in order, `output` the last


@dataclass
class Program:
    """One multi-exit network on its way through the passes."""

    name: str
    module: fx.GraphModule  # forward(x: (N,C,H,W) normalised) -> logits, or tuple of logits, one per exit
    input: InputSpec
    classes: list[str]
    cuts: list[CutPoint] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    training: dict[str, fx.Graph] = field(default_factory=dict)  # exit name -> loss graph
    provenance: dict[str, Any] = field(default_factory=dict)  # model, weights, versions, training
    passes: list[str] = field(default_factory=list)  # names of the passes applied, in order

    def node(self, name: str) -> fx.Node: ...
    def save(self, path: Path) -> None: ...
    @classmethod
    def load(cls, path: Path) -> Program: ...
