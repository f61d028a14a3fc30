"""From a module to its graph, or to a message that names the line of the model, the reason, and the usual mend."""

from __future__ import annotations

import importlib
import inspect
import keyword
import os
import traceback

import torch
from torch import Tensor, fx, nn

from perse_compile import mends
from perse_compile.errors import ModelError
from perse_compile.program import InputSpec
from perse_compile.tracer import Tracer


def trace(network: nn.Module, model: str, spec: InputSpec) -> fx.GraphModule:
    """Raises ModelError."""
    name = type(network).__name__
    tracer = Tracer((spec.channels, spec.height, spec.width))
    try:
        return module_of(network, tracer.trace(network), name)
    except ModelError:
        raise
    except Exception as error:
        frame = frame_in_model(error)
        reason, mend = mends.of_tracing(str(error).strip().splitlines()[0], (frame and frame.line) or "")
        raise ModelError(f"cannot trace {model}: {place_in_model(error)}: {reason}; {mend}") from error


def module_of(network: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """With a module called like a word of Python (`lambda`, `class`) under another name: fx writes names as code."""
    named: dict[str, object] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            *path, leaf = str(node.target).split(".")
            held = getattr(network.get_submodule(".".join(path)), leaf)
            node.target = ".".join(part + "_" * keyword.iskeyword(part) for part in (*path, leaf))
            if named.setdefault(node.target, held) is not held:
                raise ModelError(f"two parts of the network would be called {node.target}; rename one of them")
    return fx.GraphModule(named, graph, name)


def takes_the_image_only(network: nn.Module, model: str) -> None:
    """Let `forward` be called with the image alone: what else it takes has its default from now on."""
    try:
        _, *others = inspect.signature(network.forward).parameters.values()
    except ValueError:  # no argument at all: what it does will tell
        return
    others = [p for p in others if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p.name for p in others if p.default is p.empty]
    if needed:
        raise ModelError(
            f"forward of {model} takes {', '.join(needed)} beside the image; wrap it so that it takes the image only"
        )
    if not others:
        return
    kind = type(network)

    class WithDefaults(kind):  # type: ignore[misc, valid-type]
        def forward(self, image: Tensor) -> object:
            return super().forward(image)

    WithDefaults.__name__, WithDefaults.__module__ = kind.__name__, kind.__module__
    network.__class__ = WithDefaults


def place_in_model(error: BaseException) -> str:
    """file:line and source of the innermost frame that is neither torch's nor ours."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frame = frame_in_model(error)
    return f"{frame.filename}:{frame.lineno} `{frame.line}`" if frame else "an unknown line"


def frame_in_model(error: BaseException) -> traceback.FrameSummary | None:
    ours = (os.path.dirname(torch.__file__), os.path.dirname(__file__), importlib.__path__[0], "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    return frames[-1] if frames else None
