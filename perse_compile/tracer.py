"""fx's tracer, for networks of one input size: what is asked of a tensor's size is answered, but for the batch.

Beside the graph every operation runs on meta tensors (no memory, no arithmetic), so that forward may decide by sizes
of height, width and channels, count with them, and loop over parts. Where that is not possible, what follows has no
known size, as in plain fx.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from perse_compile.shapes import BATCH


class Size(tuple[Any, ...]):
    """Like torch.Size, of numbers and of stand-ins for them."""

    def numel(self) -> Any:
        return math.prod(self)

    def __getitem__(self, at: Any) -> Any:
        return Size(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)


class Proxy(fx.Proxy):
    """fx's stand-in for a tensor, which knows what the tracer knows of it.

    To fx `x += y` is `x = x + y`: other names of x would keep the old value.
    """

    tracer: Tracer

    def __getattr__(self, name: str) -> Any:
        known = self.tracer.known_of(self, name)
        return super().__getattr__(name) if known is None else known

    def __len__(self) -> int:
        parts = self.tracer.values.get(self.node)
        return len(parts) if isinstance(parts, tuple | list) else super().__len__()

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.iadd, other, "add")

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.isub, other, "sub")

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.imul, other, "mul")

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.itruediv, other, "truediv")

    def _changed(self, how: Callable[[Any, Any], Any], other: Any, name: str) -> fx.Proxy:
        made: fx.Proxy = self.tracer.create_proxy("call_function", how, (self, other), {}, name)
        return made


class Tracer(fx.Tracer):
    """Remembers for every node the source line it came from, what is changed in place, and sizes.

    `image`: (C, H, W) of what forward takes; without it no size is known.
    """

    record_stack_traces = True

    def __init__(self, image: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.image = image
        self.values: dict[fx.Node, Any] = {}  # what a node gives, of meta tensors; None where that is not known
        self.batch: fx.Proxy | None = None  # one for all tensors, so that sizes can be compared
        self.evaluating = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        zeros, ones = torch.zeros, torch.ones
        methods = {name: getattr(Tensor, name) for name in ("expand", "repeat", "view", "reshape")}
        torch.zeros, torch.ones = self._filled(zeros), self._filled(ones)
        for name, method in methods.items():
            setattr(Tensor, name, self._sized(method))
        try:
            return super().trace(root, concrete_args)
        finally:
            torch.zeros, torch.ones = zeros, ones
            for name, method in methods.items():
                setattr(Tensor, name, method)

    def _sized(self, method: Callable[..., Tensor]) -> Callable[..., Any]:
        """A method of a tensor that does not depend on the image, to a size that may be the batch's."""

        def sized(tensor: Tensor, *size: Any, **how: Any) -> Any:
            sizes = size[0] if len(size) == 1 and isinstance(size[0], tuple | list) else size
            if not any(isinstance(n, fx.Proxy) for n in sizes):
                return method(tensor, *size, **how)
            return self.create_proxy("call_method", method.__name__, (tensor, *sizes), how)

        return sized

    def _filled(self, make: Callable[..., Tensor]) -> Callable[..., Any]:
        """torch.zeros or torch.ones, of which a size may be the batch's."""

        def filled(*size: Any, **how: Any) -> Any:
            size = size or (how.pop("size", ()),)
            sizes = size[0] if len(size) == 1 and isinstance(size[0], tuple | list) else size
            if not any(isinstance(n, fx.Proxy) for n in sizes):
                return make(*size, **how)
            return self.create_proxy("call_function", make, (tuple(sizes),), how)

        return filled

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        if kind == "call_method" and (answer := self._answer(target, args, kwargs)) is not None:
            return answer
        made = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if isinstance(made, fx.Proxy) and self.image is not None:
            self.values[made.node] = self._evaluate(kind, target, args, kwargs)
        return made

    def _answer(self, method: str, args: Any, kwargs: Any) -> Any:
        """What a tensor says of itself, if that is known; else None."""
        size = self.size_of(args[0])
        if size is None or method not in ("size", "dim", "ndimension", "numel", "is_floating_point"):
            return None
        if method == "size":
            dims = [*args[1:], *kwargs.values()]
            return size[dims[0]] if dims else size
        if method == "is_floating_point":
            return self.values[args[0].node].is_floating_point()
        return size.numel() if method == "numel" else len(size)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        made_in_forward = not self.evaluating and not any(m is part for part in self.root.modules())
        if self.evaluating or (made_in_forward and next(m.parameters(), None) is None):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        parts = self.values.get(obj.node)
        if isinstance(parts, tuple | list):
            return iter([operator.getitem(obj, i) for i in range(len(parts))])
        return super().iter(obj)

    def known_of(self, x: fx.Proxy, name: str) -> Any:
        """An attribute of a tensor, if it does not depend on the image or its batch; else None."""
        size = self.size_of(x)
        if size is None:
            return None
        known = {
            "shape": size, "ndim": len(size), "dtype": self.values[x.node].dtype, "device": torch.device("cpu"),
            "is_cuda": False, "requires_grad": False,
        }  # fmt: skip
        return known.get(name)

    def size_of(self, x: Any) -> Size | None:
        """Numbers, but for what has to do with the batch."""
        value = self.values.get(x.node) if isinstance(x, fx.Proxy) else None
        if not isinstance(value, Tensor):
            return None
        return Size(self._batch(x, dim, n) if n and n % BATCH == 0 else n for dim, n in enumerate(value.shape))

    def _batch(self, x: fx.Proxy, dim: int, size: int) -> fx.Proxy:
        if size == BATCH and self.batch is not None:
            return self.batch
        made: fx.Proxy = super().create_proxy("call_method", "size", (x, dim), {})
        self.values[made.node] = size
        if size == BATCH:
            self.batch = made
        return made

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        try:
            if kind == "placeholder":
                return torch.empty(BATCH, *(self.image or ()), device="meta")
            args, kwargs = map_aggregate(args, self._known), map_aggregate(kwargs, self._known)
            with self._outside(), torch.no_grad(), torch.device("meta"):
                if kind == "get_attr":
                    return on_meta(operator.attrgetter(target)(self.root))
                if kind == "call_function":
                    kwargs = {**kwargs, "device": "meta"} if "device" in kwargs else kwargs
                    return on_meta(target(*args, **kwargs))
                if kind == "call_method":
                    return on_meta(getattr(args[0], target)(*args[1:], **kwargs))
                return module_on_meta(self.root.get_submodule(target))(*args, **kwargs)
        except Exception:  # whatever it is: its size is not known
            return None

    def _known(self, argument: Any) -> Any:
        if isinstance(argument, fx.Proxy):
            value = self.values.get(argument.node)
            if value is None:
                raise LookupError(argument.node.name)
            return value
        return on_meta(argument)

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Modules that are called here are not part of the graph."""
        before, self.evaluating = self.evaluating, True
        try:
            yield
        finally:
            self.evaluating = before


def on_meta(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def module_on_meta(module: nn.Module) -> nn.Module:
    """A copy without the weights' memory, and without what somebody wants done when it is called."""
    held = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    tensors = (*module.parameters(), *module.buffers(), *held)
    made = copy.deepcopy(module, {id(tensor): on_meta(tensor) for tensor in tensors})
    for part in made.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return made
