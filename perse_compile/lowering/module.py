"""The Relax module of an artifact: one function per stage, pool, head and training step, over shared kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from torch import fx
from tvm import relax, tirx

from perse_compile.lowering.arrangement import Arrangement, arrange
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.fuse import Group
from perse_compile.lowering.kernels import lower_group, margins
from perse_compile.lowering.kernels.scope import KernelCall, Stored
from perse_compile.lowering.values import Constant


@dataclass
class ModuleBuilder:
    """Collects kernels (each once), constants (each once) and Relax functions."""

    choices: Choices
    builder: relax.BlockBuilder = field(default_factory=relax.BlockBuilder)
    constants: dict[str, Constant] = field(default_factory=dict)  # by key
    functions: dict[str, list[str]] = field(default_factory=dict)  # name -> keys of the constants it takes last
    _kernels: dict[int, list[tuple[tirx.PrimFunc, str, Any]]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def add_function(self, name: str, inputs: list[Stored], calls: list[KernelCall], outputs: list[Stored]) -> None:
        """A straight line of kernel calls. Parameters: the inputs, then the constants used, in order of first use."""
        keys = self._take_constants(calls)
        variables = [_variable(f"input{i}", stored.memory, stored.dtype) for i, stored in enumerate(inputs)]
        weights = [_variable(f"w{i}", self.constants[key].array.shape) for i, key in enumerate(keys)]
        values: dict[str, relax.Expr] = {s.name: v for s, v in zip(inputs, variables, strict=True)}
        bound = dict(zip(keys, weights, strict=True))
        kernels = [self._kernel(call) for call in calls]
        with self.builder.function(name, [*variables, *weights]):
            with self.builder.dataflow():
                for call, kernel in zip(calls, kernels, strict=True):
                    arguments = [
                        bound[s.key] if isinstance(s, Constant) else self._seen_as(values[s[0]], s[1])
                        for s in call.inputs
                    ]
                    kind = relax.TensorType(call.shape, "float32")
                    if call.continues:
                        arguments.append(values[call.output])
                        result = relax.op.call_tir_inplace(kernel, arguments, len(call.inputs), kind)
                    elif call.sums:
                        of_rows, shape = call.sums
                        kinds = [relax.TensorType(shape, "float32"), kind]
                        both = self.builder.emit(relax.op.call_tir(kernel, arguments, kinds))
                        values[of_rows] = self.builder.emit(relax.TupleGetItem(both, 0))
                        result = relax.TupleGetItem(both, 1)
                    else:
                        result = relax.op.call_tir(kernel, arguments, kind)
                    values[call.output] = self.builder.emit(result)
                results = [self.builder.emit_output(self._seen_as(values[s.name], s.memory)) for s in outputs]
            self.builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
        self.functions[name] = keys

    def module(self) -> tvm.IRModule:
        return self.builder.get()

    def _take_constants(self, calls: list[KernelCall]) -> list[str]:
        keys: list[str] = []
        for call in calls:
            for source in call.inputs:
                if isinstance(source, Constant):
                    self.constants.setdefault(source.key, source)
                    if source.key not in keys:
                        keys.append(source.key)
        return keys

    def _seen_as(self, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        if tuple(int(size) for size in value.ty.shape) == shape:
            return value
        return self.builder.emit(relax.op.reshape(value, shape))

    def _kernel(self, call: KernelCall) -> relax.GlobalVar:
        digest = tvm_ffi.structural_hash(call.func)
        for func, schedule, variable in self._kernels.setdefault(digest, []):
            if schedule == repr(call.schedule) and tvm_ffi.structural_equal(func, call.func):
                return variable
        name = self._fresh(call.hint)
        scheduled = call.schedule(call.func).with_attr("global_symbol", name)
        variable = self.builder.add_func(scheduled, name)
        self._kernels[digest].append((call.func, repr(call.schedule), variable))
        return variable

    def _fresh(self, hint: str) -> str:
        name, n = f"perse_k_{hint}", 0
        while name in self._names:
            n += 1
            name = f"perse_k_{hint}_{n}"
        self._names.add(name)
        return name


def _variable(name: str, shape: tuple[int, ...], dtype: str = "float32") -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, dtype))


def lower_nodes(
    nodes: list[fx.Node], kept: set[fx.Node], values: dict[str, Stored], weight_of: Any, choices: Choices
) -> list[KernelCall]:
    """Kernel calls for a straight line of nodes; `values` gains every stored result."""
    arrangement = arrange(nodes, kept, partial(margins.wanted, choices=choices))
    return [call for _, calls in lower_groups(arrangement, values, weight_of, choices) for call in calls]


def lower_groups(
    arrangement: Arrangement, values: dict[str, Stored], weight_of: Any, choices: Choices
) -> Iterator[tuple[Group, list[KernelCall]]]:
    """The same, group by group; `values` gains a group's result before the group is given."""
    for group in arrangement.groups:
        yield group, lower_group(group, values, weight_of, choices, arrangement)


def weights_of(module: fx.GraphModule) -> Any:
    """Reads the tensor behind a get_attr node."""

    def read(node: fx.Node) -> NDArray[np.float32]:
        tensor: Any = module
        for part in str(node.target).split("."):
            tensor = getattr(tensor, part)
        return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)

    return read
