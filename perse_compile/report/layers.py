"""A program's graph as people read it: layers with what follows them, in blocks, in stages.

A layer is a convolution, a pool, a join, ... with the element-wise operations behind it. A block is what the network's
author put together: the smallest modules with more than one layer, and no more than MOST. Everything is plain data, so
that an artifact can keep it as layers.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from torch import fx

from perse_compile.macs import node_macs
from perse_compile.ops import ACTIVATIONS, ARITHMETIC
from perse_compile.program import Program
from perse_compile.rewriting import data_inputs, is_op

Layer = dict[str, Any]
Path = tuple[str, ...]  # of a module
MOST = 10  # layers of a block, if its modules can be told apart
FOLLOWS = (
    "affine", "layer_norm", *ACTIVATIONS, "softmax", "reshape", "permute", "channel_shuffle", "pad", "pad_by_image",
    "pad_channels", "upsample", *ARITHMETIC,
)  # fmt: skip
KINDS = {
    "conv2d": "convolution", "linear": "linear", "matmul": "linear", "concat": "join", "slice_dim": "split",
    **dict.fromkeys(ARITHMETIC, "join"),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax"), "pool"),
}  # fmt: skip


def layers(program: Program) -> list[Layer]:
    """In the order in which they are computed; `inputs` are positions in this list, -1 is the image."""
    groups = _groups(program)
    stage_of = {name: stage.name for stage in program.stages for name in stage.nodes}
    at = {node.name: i for i, group in enumerate(groups) for node in group}
    found = [_layer(group, at, stage_of.get(group[-1].name, "")) for group in groups]
    _name_blocks(found, program.name)
    return found


def _groups(program: Program) -> list[list[fx.Node]]:
    """Every node of the backbone, with those that follow it and that nothing else reads."""
    groups: list[list[fx.Node]] = []
    last: dict[fx.Node, list[fx.Node]] = {}
    of_exits: set[fx.Node] = set()
    for node in program.module.graph.nodes:
        if is_op(node, "pool_features") or of_exits & set(node.all_input_nodes):
            of_exits.add(node)  # a bottleneck's projection, too
        if node.op != "call_function" or node in of_exits:
            continue
        sources = data_inputs(node)
        alone = len(sources) == 1 and sources[0] in last and len(sources[0].users) == 1
        if alone and is_op(node, *FOLLOWS):
            group = last.pop(sources[0])
            group.append(node)
        else:
            group = [node]
            groups.append(group)
        last[node] = group
    return groups


def _layer(group: list[fx.Node], at: dict[str, int], stage: str) -> Layer:
    inside = set(group)
    inputs = [source for node in group for source in data_inputs(node) if source not in inside]
    return {
        "name": _name(group),
        "nodes": [node.name for node in group],
        "operations": [_operation(node) for node in group],
        "kind": _kind(group),
        "shape": list(group[-1].meta["shape"]),
        "macs": sum(map(node_macs, group)),
        "stage": stage,
        "block": "",
        "inputs": list(dict.fromkeys(at.get(source.name, -1) for source in inputs)),
    }


def _module(group: list[fx.Node]) -> str | None:
    """Dotted path of the module whose tensors it reads; of a convolution before a norm."""
    nodes = sorted(group, key=lambda node: not is_op(node, "conv2d", "linear"))
    tensors = [str(n.target) for node in nodes for n in node.all_input_nodes if n.op == "get_attr"]
    return tensors[0].rpartition(".")[0] or None if tensors else None


def _name(group: list[fx.Node]) -> str:
    return _module(group) or group[-1].name


def _kind(group: list[fx.Node]) -> str:
    for node in group:
        kind = KINDS.get(node.target.__name__)  # type: ignore[union-attr]
        if kind == "convolution":
            channels = int(node.meta["shape"][0])
            return "depthwise" if node.args[6] == channels and channels > 1 else kind
        if kind is not None:
            return kind
    return "other"


def _operation(node: fx.Node) -> str:
    """conv 3x3 /2"""
    name, args = node.target.__name__, node.args  # type: ignore[union-attr]
    if name == "conv2d":
        kernel, stride, dilation, groups = args[1].meta["shape"][2:], args[3], args[5], args[6]  # type: ignore[union-attr]
        text = f"conv {'x'.join(map(str, kernel))}" + _by("/", stride) + _by("dilated ", dilation)
        return text + (f" in {groups} groups" if groups != 1 else "")
    if name in ("max_pool2d", "avg_pool2d"):
        return f"{name[:3]} pool {'x'.join(map(str, args[1]))}{_by('/', args[2])}"  # type: ignore[arg-type]
    return str(name).replace("2d", "").replace("_dim", "").replace("_", " ")


def _by(what: str, pair: Any) -> str:
    return "" if set(pair) == {1} else f" {what}{'x'.join(map(str, dict.fromkeys(pair)))}"


# --- blocks -----------------------------------------------------------------------------------------------


def _name_blocks(found: list[Layer], name: str) -> None:
    """What has no module of its own belongs to the one before it."""
    paths: list[Path] = []
    for layer in found:
        own = tuple(layer["name"].split(".")) if layer["name"] not in layer["nodes"] else None
        paths.append(own or (paths[-1] if paths else (layer["name"],)))
    start = 0
    for _, stage in groupby(found, key=lambda layer: layer["stage"]):
        stop = start + len(list(stage))
        for first, last, block in _blocks(paths, start, stop, 0):
            for layer in found[first:last]:
                layer["block"] = block or name
        start = stop


def _blocks(paths: list[Path], start: int, stop: int, depth: int) -> Iterator[tuple[int, int, str]]:
    """Runs of layers under one module: from, to, and its path ("" for the network itself)."""
    if stop - start <= MOST:
        yield start, stop, ".".join(paths[start][:depth] if depth else _shared(paths[start:stop]))
        return
    loose = start  # layers of this module itself, waiting to become a block
    at = start
    while at < stop:
        end = at
        while end < stop and paths[end][: depth + 1] == paths[at][: depth + 1]:
            end += 1
        if all(len(path) == depth + 1 for path in paths[at:end]):
            if end - loose > MOST:
                if at > loose:
                    yield loose, at, ".".join(paths[loose][:depth])
                loose = at
        else:
            if at > loose:
                yield loose, at, ".".join(paths[loose][:depth])
            yield from _blocks(paths, at, end, depth + 1)
            loose = end
        at = end
    if stop > loose:
        yield loose, stop, ".".join(paths[loose][:depth])


def _shared(paths: list[Path]) -> Path:
    """The module that all of them are in."""
    same = 0
    while all(len(path) > same + 1 and path[same] == paths[0][same] for path in paths):
        same += 1
    return paths[0][:same]
