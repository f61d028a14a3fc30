"""canonicalise: from torch's many spellings to the operations of perse_compile.ops."""

from __future__ import annotations

import inspect
import linecache
import operator
import re
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from perse_compile import mends
from perse_compile.errors import PassError
from perse_compile.ops import OPS
from perse_compile.passes.spellings import FUNCTIONS, METHODS, MODULES, PLAIN_FUNCTIONS, Unsupported
from perse_compile.passes.spellings.batch import MOVABLE, NEVER_FIRST, Moved, of_parts
from perse_compile.passes.spellings.rules import without_its_batch
from perse_compile.pipeline import Pass
from perse_compile.program import Program, make_module
from perse_compile.shapes import BATCH, first_line, run_on_meta, without_batch

COPIES = {  # what gives a tensor of its own even where that is the same as its argument
    "clone", "pow", "cat", "concat", "pad", "interpolate", "roll", "repeat", "tile", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Upsample", "UpsamplingNearest2d", "ZeroPad2d",
    "ConstantPad2d", "ReflectionPad2d", "ReplicationPad2d", "CircularPad2d", "flip", "index_select",
    "repeat_interleave", "UpsamplingBilinear2d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
    "AdaptiveAvgPool1d", "AdaptiveMaxPool1d",
}  # fmt: skip
MAKERS = (torch.zeros, torch.ones, torch.full)
RESERVED = re.compile(r"(exit\d+|final)(\.|$)")  # tensor names that belong to heads


@dataclass(frozen=True)
class Canonicalise(Pass):
    """Rewrite every node as a call of one operation with positional, plain arguments.

    Given:  %c = call_module conv(x);  %n = x.size(0);  %v = %c.view(%n, -1)
    Result: %c = conv2d(x, %weight, %bias, (1, 1), (0, 0), (1, 1), 1);  %v = reshape(%c, (512,))
    """

    name = "canonicalise"
    needs = ("evaluation-form",)

    def apply(self, program: Program) -> None:
        emitter = Emitter(program)
        for node in program.module.graph.nodes:
            emitter.visit(node)
        emitter.graph.eliminate_dead_code()
        program.module = make_module(emitter.graph, emitter.tensors, program.name)


class Emitter:
    """Walks the traced graph, holding for each node what it became: a new node, a tensor, or a plain value."""

    def __init__(self, program: Program) -> None:
        self.program, self.module, self.graph = program, program.module, fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.owner: dict[Any, fx.Node] = {}  # node -> the first that shares its memory
        self.meta: dict[fx.Node, Any] = {}  # new node -> meta tensor
        self.parts: dict[fx.Node, int] = {}  # new node -> how many images forward has made of each (spellings/batch.py)
        self.tensors: dict[str, Tensor] = {}
        self.tensor_nodes: dict[int, fx.Node] = {}
        self.tensor_names = {id(t): name for name, t in program.tensors().items()}
        self.kept_alive: list[Tensor] = []  # ids stay good only as long as their tensors live
        self.taken = {node.name for node in program.module.graph.nodes}
        self.emitted: set[str] = set()
        self.computed: dict[str, Tensor] = {}
        self.current: fx.Node = next(iter(program.module.graph.nodes))

    # --- what rules use ---

    def __call__(self, op: str, *args: Any, suffix: str = "") -> fx.Node:
        """Add a call of an operation; it takes the name of the node being rewritten."""
        data: list[fx.Node] = []
        map_arg(args, data.append)
        parts, *others = {self.parts.get(node, 1) for node in data}
        if others:
            raise Unsupported("images together with parts of them that are a batch of their own")
        if parts == 1:
            return self.add(op, args, 1, suffix)
        if op == "affine":
            scale, shift = (t.reshape(-1, *(1,) * (len(self.shape(args[0])) - 2)) for t in args[1:])
            return self("add", self("mul", args[0], scale, suffix="scaled"), shift, suffix=suffix)
        return self.add(op, of_parts(op, args, parts), parts, suffix)

    def add(self, op: str, args: tuple[Any, ...], parts: int, suffix: str) -> fx.Node:
        args = map_aggregate(args, lambda a: self.tensor_node(a) if isinstance(a, Tensor) else a)
        node = self.graph.create_node("call_function", OPS[op], args, name=self.new_name(suffix))
        value = run_on_meta(node, self.meta)
        node.meta["shape"], self.meta[node] = without_batch(node.name, value), value
        if parts > 1:
            self.parts[node], node.meta["parts"] = parts, True
        return node

    def reshape(self, x: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        """To a shape whose first number is the batch's, or parts of it."""
        parts = shape[0] // BATCH
        return self.add("reshape", (x, (parts, *shape[1:]) if parts > 1 else tuple(shape[1:])), parts, "")

    def shape(self, x: fx.Node | Moved) -> tuple[int, ...]:
        """With the batch, which is BATCH."""
        if isinstance(x, Moved):
            own = self.shape(x.node)
            return tuple(own[d] for d in x.order)
        first, *rest = self.meta[x].shape
        parts = self.parts.get(x, 1)
        return (first * parts, *(rest if parts == 1 else rest[1:]))

    def users(self) -> list[fx.Node]:
        return list(self.current.users)

    def overwrite(self, old: fx.Node, new: fx.Node) -> None:
        """After an in-place operation every name of the old value means the new one; copies of it do not."""
        changed = next((n for n in self.current.all_input_nodes if self.values.get(n) is old), None)
        for key, value in self.values.items():
            if value is old and self.owner.get(key, key) is self.owner.get(changed, changed):
                self.values[key] = new

    # --- the walk ---

    def visit(self, node: fx.Node) -> None:
        self.current = node
        if node.op == "placeholder":
            if self.meta:
                raise PassError(
                    f"{self.program.name} takes more than one input; wrap it so that forward takes the image only"
                )
            spec = self.program.input
            new = self.graph.create_node("placeholder", node.name, name=node.name)
            self.meta[new] = torch.empty(BATCH, spec.channels, spec.height, spec.width, device="meta")
            new.meta["shape"] = without_batch(node.name, self.meta[new])
            self.values[node] = new
        elif node.op == "get_attr":
            self.values[node] = fetch(self.module, str(node.target))
        elif node.op == "output":
            result = self.resolve(node.args[0])
            if not isinstance(result, fx.Node) or len(self.shape(result)) != 2 or result in self.parts:
                raise PassError(f"{self.program.name} must return one tensor of logits, (batch, classes)")
            self.graph.create_node("output", "output", (result,), name=node.name)
        else:
            try:
                self.values[node] = self.call(node)
                same = next((n for n in node.all_input_nodes if self.values[n] is self.values[node]), node)
                copied = self.describe(node).partition(" ")[0] in COPIES or self.picks(node)
                self.owner[node] = node if copied else self.owner.get(same, same)
            except (Unsupported, PassError) as error:
                raise PassError(f"node {node.name} ({self.describe(node)}{source_line(node)}): {error}") from error

    def call(self, node: fx.Node) -> Any:
        args, kwargs = self.resolve(node.args), self.resolve(node.kwargs)
        if not contains((fx.Node, Moved), (args, kwargs)):
            return self.compute(node, args, kwargs)
        rule: Any
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            rule = next(
                (MODULES[c] for c in type(module).__mro__ if c in MODULES and type(module).forward is c.forward), None
            )
            args = (module, *args)
        elif node.op == "call_method":
            rule = METHODS.get(str(node.target))
        else:
            rule = FUNCTIONS.get(node.target)
        if rule is None:
            raise Unsupported(self.no_operation(node))
        takes = inspect.signature(rule)
        if "axis" in kwargs and "axis" not in takes.parameters:
            kwargs["dim"] = kwargs.pop("axis")
        try:
            takes.bind(self, *args, **kwargs)
            if rule not in MOVABLE and contains(Moved, (args, kwargs)):
                raise Unsupported(NEVER_FIRST)
            return rule(self, *args, **kwargs)
        except (Unsupported, PassError):
            raise
        except Exception as error:
            raise Unsupported(f"called in a form that cannot be compiled ({first_line(error)})") from error

    def compute(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Nothing here depends on the image: the result is a constant."""
        try:
            with torch.no_grad():
                if node.op == "call_module":
                    return self.module.get_submodule(str(node.target))(*args, **kwargs)
                if node.op == "call_method":
                    if node.target in ("view", "reshape", "expand", "repeat", "tile"):
                        args = (args[0], *without_its_batch(args[1:]))
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                target: Any = node.target
                if target in (torch.broadcast_to, torch.tile):
                    args = (args[0], *without_its_batch(args[1:]))
                if target in MAKERS:
                    args, kwargs = of_one_image(target, args, kwargs)
                if (
                    target in PLAIN_FUNCTIONS
                    or isinstance(target, BuiltinFunctionType)
                    or contains(Tensor, (args, kwargs))
                    or target in FUNCTIONS
                ):
                    return target(*args, **kwargs)
        except Exception as error:
            raise Unsupported(first_line(error)) from error
        raise Unsupported(self.no_operation(node))

    def picks(self, node: fx.Node) -> bool:
        """By places, which copies; other indices give a part of the same memory."""
        if node.target is not operator.getitem:
            return False
        items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return any(isinstance(self.resolve(item), (list, tuple, Tensor)) for item in items)

    def no_operation(self, node: fx.Node) -> str:
        return f"no operation for this; {mends.of_operation(self.describe(node).partition(' ')[0])}"

    def resolve(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.values[value]
        if isinstance(value, slice):
            return slice(self.resolve(value.start), self.resolve(value.stop), self.resolve(value.step))
        if isinstance(value, (tuple, list)):
            return (
                type(value)(map(self.resolve, value))
                if type(value) in (tuple, list)
                else tuple(map(self.resolve, value))
            )
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        return value

    def tensor_node(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self.tensor_nodes:
            name = self.tensor_names.get(id(tensor)) or f"constant.{self.current.name}"
            name = f"network_{name}" if RESERVED.match(name) else name
            while name in self.tensors:
                name += "_"
            self.tensors[name] = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
            node = self.graph.create_node("get_attr", name, name=self.free_name(name.replace(".", "_")))
            node.meta["shape"] = tuple(tensor.shape)
            self.tensor_nodes[id(tensor)], self.meta[node] = node, torch.empty_like(self.tensors[name], device="meta")
            self.kept_alive.append(tensor)
        return self.tensor_nodes[id(tensor)]

    def name_tensor(self, tensor: Tensor, leaf: str) -> Tensor:
        """Say what a tensor that a rule computed is to be called."""
        base = str(self.current.target) if self.current.op == "call_module" else self.current.name
        earlier = self.computed.setdefault(f"{base}.{leaf}", tensor)
        if torch.equal(earlier, tensor):  # a module called twice keeps one tensor
            tensor = earlier
        self.tensor_names.setdefault(id(tensor), f"{base}.{leaf}")
        self.kept_alive.append(tensor)
        return tensor

    def new_name(self, suffix: str) -> str:
        if not suffix and self.current.name not in self.emitted:
            self.emitted.add(self.current.name)
            return self.current.name
        return self.free_name(f"{self.current.name}_{suffix or 'more'}")

    def free_name(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def describe(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{type(self.module.get_submodule(str(node.target))).__name__} {node.target}"
        return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))


def of_one_image(make: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments of torch.zeros and the like for one tensor that broadcasts along the batch."""
    sizes = args[:1] if make is torch.full else args
    kwargs = {key: without_its_batch(value) if key == "size" else value for key, value in kwargs.items()}
    return (*without_its_batch(sizes), *args[len(sizes) :]), kwargs


def fetch(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def contains(kind: type | tuple[type, ...], value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(contains(kind, item) for item in value)
    if isinstance(value, dict):
        return any(contains(kind, item) for item in value.values())
    if isinstance(value, slice):
        return contains(kind, (value.start, value.stop, value.step))
    return isinstance(value, kind)


def source_line(node: fx.Node) -> str:
    """Where the model's author wrote it, if the tracer knows."""
    torch_dir = torch.__path__[0]
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    places = [
        f"{file}:{line}" for file, line in lines if not file.startswith(torch_dir) and "/perse_compile/" not in file
    ]
    if not places:
        return ""
    file, _, number = places[-1].rpartition(":")
    return f" at {places[-1]} `{linecache.getline(file, int(number)).strip()}`"
