"""Programs for tests, and what every pass must keep."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from perse_compile import trace
from perse_compile.dump import dump
from perse_compile.input_spec import class_names, input_spec
from perse_compile.pipeline import Pass, run
from perse_compile.program import Program
from perse_compile.verify import verify


def traced(network: nn.Module, name: str = "net", channels: int = 3) -> Program:
    """As trace_model does it, without looking for a factory; norms get statistics worth folding."""
    randomise(network)
    facts = {"preset": None, "meta": None}
    spec = input_spec(network.eval(), facts, None)
    module, count = trace.traced(network, name, spec)
    return Program(name, module, spec, class_names(network, facts, count), provenance={"model": name, "warnings": []})


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in (*network.named_buffers(), *network.named_parameters()):
        with torch.no_grad():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith("running_mean") or (tensor.dim() == 1 and tensor.is_floating_point()):
                tensor.normal_(0.2, 0.5, generator=generator)


def images(program: Program, count: int = 2) -> Tensor:
    spec = program.input
    return torch.randn(count, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(2))


def logits(program: Program, count: int = 2) -> Tensor:
    with torch.no_grad():
        result = program.module(images(program, count))
    if isinstance(result, dict):
        return result["out"]
    return result[-1] if isinstance(result, tuple) else result


def check_pass(program: Program, *passes: Pass) -> Program:
    """Apply to a copy: the input is untouched, the result verifies, the network computes the same on any batch."""
    expected, text = logits(program), dump(program)
    result = run(copy.deepcopy(program), passes)
    verify(result)
    assert dump(program) == text
    torch.testing.assert_close(logits(result), expected, rtol=1e-4, atol=1e-5)
    assert logits(result, 3).shape[0] == 3
    return result


def calls(program: Program) -> list[str]:
    return [node.target.__name__ for node in program.module.graph.nodes if node.op == "call_function"]


def prepared(network: nn.Module, passes: Sequence[Pass], name: str = "net") -> Program:
    return run(traced(network, name), passes)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
