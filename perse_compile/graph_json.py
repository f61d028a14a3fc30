"""A canonical fx graph as JSON and back, without eval and without pickle.

A node is {"name", "op", "target", "args", "shape"?}. In args a reference is {"node": name}, a tuple is a list,
and a float that JSON cannot say is {"float": "inf"}. Only functions of `perse_compile.ops.OPS` can be named.
"""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from perse_compile.ops import OPS


def encode(graph: fx.Graph) -> list[dict[str, Any]]:
    return [_encode_node(node) for node in graph.nodes]


def decode(nodes: list[dict[str, Any]]) -> fx.Graph:
    graph, made = fx.Graph(), dict[str, fx.Node]()
    for entry in nodes:
        name, op, target = entry["name"], entry["op"], entry["target"]
        args = tuple(_decode_arg(arg, made) for arg in entry["args"])
        if op not in ("placeholder", "get_attr", "call_function", "output"):
            raise ValueError(f"node {name} is a {op!r}")
        node = graph.create_node(op, OPS[target] if op == "call_function" else target, args, name=name)
        if node.name != name:
            raise ValueError(f"node name {name!r} cannot be used")
        if "shape" in entry:
            node.meta["shape"] = tuple(entry["shape"])
        made[name] = node
    graph.lint()
    return graph


def _encode_node(node: fx.Node) -> dict[str, Any]:
    target: Any = node.target
    if node.op == "call_function":
        target = target.__name__
        if OPS.get(target) is not node.target:
            raise TypeError(f"node {node.name} calls {target}, which is not an operation of perse_compile.ops")
    if node.kwargs:
        raise TypeError(f"node {node.name} has keyword arguments")
    entry = {"name": node.name, "op": node.op, "target": target, "args": [_encode_arg(arg) for arg in node.args]}
    if "shape" in node.meta:
        entry["shape"] = list(node.meta["shape"])
    return entry


def _encode_arg(arg: Any) -> Any:
    if isinstance(arg, fx.Node):
        return {"node": arg.name}
    if isinstance(arg, (tuple, list)):
        return [_encode_arg(item) for item in arg]
    if isinstance(arg, float) and not math.isfinite(arg):
        return {"float": repr(arg)}
    if arg is None or type(arg) in (int, float, bool, str):
        return arg
    raise TypeError(f"argument {arg!r} is not plain")


def _decode_arg(arg: Any, made: dict[str, fx.Node]) -> Any:
    if isinstance(arg, dict):
        return made[arg["node"]] if "node" in arg else float(arg["float"])
    if isinstance(arg, list):
        return tuple(_decode_arg(item, made) for item in arg)
    return arg
