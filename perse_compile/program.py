"""Program: what the passes rewrite, and its file format.

A program is one multi-exit network: a torch.fx graph of `perse_compile.ops` over named float32 tensors,
and, as passes add them, its cut points, exits, stages and training graphs. It is saved as one
safetensors file (`.perse`) whose metadata holds everything but the tensors as checked JSON.

Tensors are buffers of the module under their dotted names (`layer1.0.conv1.weight`), held by nested
plain modules, so that `get_attr` nodes and `state_dict()` know them by the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from perse_compile import graph_json, safe_file
from perse_compile.errors import PassError, ProgramError

if TYPE_CHECKING:
    from perse_compile.early_exit import EarlyExit

SPARE_LOGIT = -30000.0  # bias of an output that no class has yet, see PERSE_SPARE_LOGIT in runtime/plan.h


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

    Its head is four tensors of the program's module: `<name>.shift`, `.scale`, `.weight`, `.bias`. A bottleneck has two
    more, `<name>_projection.weight` and `.bias`, which are not the head's: personalising leaves them alone.
    The last exit is called "final": it always answers.
    """

    name: str
    tap: str  # node the exit reads
    grid: int  # of pool_features
    features: int  # F, numbers that the head reads
    macs: int  # of the backbone up to the tap
    temperature: float = 1.0
    threshold: float = 1.0  # top-1 confidence at which the answer is taken
    enabled: bool = False  # an untrained exit never answers
    projected: int = 0  # of a bottleneck: means of which its projection makes the features; 0: they are the features

    @property
    def head(self) -> str:
        """Its type: pooled, multiscale, bottleneck; or own, the network's own classifier."""
        if self.name == "final":
            return "own"
        return "bottleneck" if self.projected else "multiscale" if self.grid > 1 else "pooled"


@dataclass
class Stage:
    """Backbone between two taps: straight-line, ends at the tap of the exit of the same position."""

    name: str  # of the exit it ends at
    input: str  # node
    output: str  # node (the tap)
    nodes: list[str]  # in order, with the get_attr nodes it reads, `output` the last


@dataclass
class Program:
    """One multi-exit network on its way through the passes."""

    name: str
    module: fx.GraphModule  # forward(x: (N,C,H,W) normalised) -> logits, or tuple of logits, one per exit
    input: InputSpec
    classes: list[str]
    spare: int = 0  # outputs of every head after those of the classes, for classes that a person will name
    cuts: list[CutPoint] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    training: dict[str, fx.Graph] = field(default_factory=dict)  # exit name -> loss graph
    levels: list[list[float]] | None = None  # [C][2] of the images that trained the exits, see personalise/levels.py
    provenance: dict[str, Any] = field(default_factory=dict)  # model, weights, versions, training
    passes: list[str] = field(default_factory=list)  # names of the passes applied, in order

    @property
    def outputs(self) -> int:
        """Of every head once there are heads, spare ones too."""
        return len(self.classes) + self.spare

    def node(self, name: str) -> fx.Node:
        for node in self.module.graph.nodes:
            if node.name == name:
                return node  # type: ignore[no-any-return]
        raise PassError(f"no node named {name!r} in {self.name}; `perse-compile insert-exits MODEL --list` lists them")

    def exit(self, name: str) -> Exit:
        for exit in self.exits:
            if exit.name == name:
                return exit
        raise PassError(
            f"no exit named {name!r} in {self.name}; it has {', '.join(e.name for e in self.exits) or 'none'}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by dotted name."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def tensor(self, name: str) -> Tensor:
        tensors = self.tensors()
        if name not in tensors:
            raise PassError(f"no tensor named {name!r} in {self.name}")
        return tensors[name]

    def set_tensor(self, name: str, tensor: Tensor) -> None:
        set_tensor(self.module, name, tensor)

    def as_module(self) -> EarlyExit:
        """A torch module that stops at the first confident exit, see perse_compile/early_exit.py."""
        from perse_compile.early_exit import EarlyExit

        return EarlyExit(self)

    def _repr_html_(self) -> str:
        from perse_compile.report.notebook import of_program

        return of_program(self)

    def save(self, path: Path) -> None:
        """Write the whole program; the same program gives the same bytes. An old file stays until then."""
        body = {
            "name": self.name,
            "graph": graph_json.encode(self.module.graph),
            "input": asdict(self.input),
            "classes": self.classes,
            "spare": self.spare,
            "cuts": [asdict(cut) for cut in self.cuts],
            "exits": [asdict(exit) for exit in self.exits],
            "stages": [asdict(stage) for stage in self.stages],
            "training": {name: graph_json.encode(graph) for name, graph in self.training.items()},
            "levels": self.levels,
            "provenance": self.provenance,
            "passes": self.passes,
        }
        used = {str(node.target) for node in self.module.graph.nodes if node.op == "get_attr"}
        safe_file.write(Path(path), body, {name: t for name, t in self.tensors().items() if name in used})

    @classmethod
    def load(cls, path: Path) -> Program:
        """Read a program after checking every byte of it."""
        body, tensors = safe_file.read(Path(path))
        try:
            spec = body["input"]
            return cls(
                name=body["name"],
                module=make_module(graph_json.decode(body["graph"]), tensors, body["name"]),
                input=InputSpec(**{**spec, "mean": tuple(spec["mean"]), "std": tuple(spec["std"])}),
                classes=body["classes"],
                spare=body.get("spare", 0),  # programs of before there were spare classes
                cuts=[CutPoint(**{**cut, "shape": tuple(cut["shape"])}) for cut in body["cuts"]],
                exits=[Exit(**exit) for exit in body["exits"]],
                stages=[Stage(**stage) for stage in body["stages"]],
                training={name: graph_json.decode(graph) for name, graph in body["training"].items()},
                levels=body.get("levels"),  # programs of before there were levels
                provenance=body["provenance"],
                passes=body["passes"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProgramError(f"{path} does not describe a program ({error}); run insert-exits again") from error


def widened(weight: Tensor, bias: Tensor, spare: int) -> tuple[Tensor, Tensor]:
    """A head's weight [F,K] and bias [K] with so many outputs more, which cannot win: weight 0, bias SPARE_LOGIT."""
    wide = nn.functional.pad(weight, (0, spare)), nn.functional.pad(bias, (0, spare), value=SPARE_LOGIT)
    return wide[0].contiguous(), wide[1]


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Register a buffer under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        child = module._modules.get(part)
        if child is None:
            child = nn.Module()
            module.add_module(part, child)
        module = child
    module._parameters.pop(leaf, None)
    module._buffers.pop(leaf, None)
    module.register_buffer(leaf, tensor.detach().contiguous())


def make_module(graph: fx.Graph, tensors: dict[str, Tensor], name: str) -> fx.GraphModule:
    """A graph and the tensors that its get_attr nodes name, as one module in evaluation mode."""
    root = nn.Module()
    for target in dict.fromkeys(_targets(graph)):
        if target not in tensors:
            raise KeyError(f"no tensor {target}")
        set_tensor(root, target, tensors[target])
    return fx.GraphModule(root, graph, class_name="Network").eval()


def _targets(graph: fx.Graph) -> Iterable[str]:
    return (str(node.target) for node in graph.nodes if node.op == "get_attr")
