"""From a model's name to a traced program. The only importer of torchvision.

MODEL is a name of torchvision's classification registry, or `package.module:factory` (the current folder is
importable); the factory returns a module, whose attributes `input_size`, `channels`, `mean`, `std` and
`class_names`, where it has them, say what its images are.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn

from perse_compile import weights as weight_files
from perse_compile.errors import ModelError
from perse_compile.input_spec import class_names, input_spec
from perse_compile.program import InputSpec, Program
from perse_compile.tracing import place_in_model, takes_the_image_only, trace

SEED = 0
TOLERANCE = 1e-3  # of the largest logit: by how much tracing may change the answer
NOT_CNNS = ("vit_", "swin_", "maxvit")
RANDOM_WEIGHTS = (
    "random weights: the pretrained ones of {model} could not be had ({reason});"
    " its answers mean nothing until it is trained"
)
NOT_PRETRAINED = (
    "{model} was made without its pretrained weights, so its answers mean nothing yet; --weights default asks it for"
    " them, --weights FILE reads them"
)


def list_models() -> list[str]:
    """Names of torchvision's CNN classifiers."""
    return [name for name in torchvision.models.list_models(module=torchvision.models) if not name.startswith(NOT_CNNS)]


def trace_model(
    model: str,
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
) -> Program:
    """Find the model, give it weights, and trace it. Warnings are in provenance["warnings"]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if ":" in model:
            network, facts = load_factory(model, weights, num_classes)
        else:
            network, facts = load_torchvision(model, weights, num_classes)
    spec = input_spec(network.eval(), facts, input_size)
    module, count = traced(network, model, spec)
    if num_classes is not None and count != num_classes:
        raise ModelError(f"{model} has {count} classes whatever num_classes is; leave --num-classes out")
    classes = class_names(network, facts, count)
    provenance = {
        "model": model,
        "weights": facts["weights"],
        "warnings": facts["warnings"],
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
    return Program(model.rpartition(":")[2], module, spec, classes, provenance=provenance)


def traced(network: nn.Module, model: str, spec: InputSpec) -> tuple[fx.GraphModule, int]:
    """The graph, and how many classes there are; raises ModelError."""
    takes_the_image_only(network, model)
    try:
        answer(network, spec, model, SEED)  # before tracing: what the network keeps of a call is of numbers then
        expected = answer(network, spec, model, SEED + 1).nan_to_num()  # and must not matter. NaN is found elsewhere
    except ModelError:
        trace(network, model, spec)  # where that fails, too, it names the line
        raise
    module = trace(network, model, spec)
    found = answer(module, spec, model, SEED + 1).nan_to_num()
    off = (found - expected).abs().max() if found.shape == expected.shape else torch.inf
    if not off <= TOLERANCE * expected.abs().max():
        raise ModelError(
            f"{model} computes something else when traced; it must be the same function of the image at every call:"
            " no random numbers, no state, nothing but torch operations"
        )
    return module, int(found.shape[1])


# --- torchvision's registry -------------------------------------------------------------------------------


def load_torchvision(model: str, weights: str, num_classes: int | None) -> tuple[nn.Module, dict[str, Any]]:
    names = torchvision.models.list_models(module=torchvision.models)
    if model not in names:
        close = difflib.get_close_matches(model, names, 3, 0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ModelError(
            f"unknown model {model!r}; {hint}`perse-compile models` lists all; own ones are package.module:factory"
        )
    if model.startswith(NOT_CNNS):
        raise ModelError(
            f"{model} is not a convolutional network, the only kind we compile; `perse-compile models` lists them"
        )
    known = torchvision.models.get_model_weights(model).DEFAULT
    facts: dict[str, Any] = {
        "preset": known.transforms(),
        "meta": None,
        "warnings": [],
        "weights": {"source": "random", "seed": SEED},
    }

    def build(classes: int | None, pretrained: bool = False) -> nn.Module:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if model in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": False, "transform_input": pretrained}
        network: nn.Module = torchvision.models.get_model(model, weights=None, **options)
        return network

    if weights == "none":
        return build(num_classes), facts
    if weights in ("auto", "default"):
        state = weight_files.pretrained(known.url)
        if isinstance(state, str):
            if weights == "default":
                raise ModelError(
                    f"pretrained weights of {model} cannot be had ({state}); go online once, or give none or a file"
                )
            facts["warnings"].append(RANDOM_WEIGHTS.format(model=model, reason=state))
            return build(num_classes), facts
        network = build(num_classes, pretrained=True)
        left_out = weight_files.fill(network, state, model, new_classifier=num_classes is not None)
        facts["weights"] = {"source": "pretrained", "name": known.name}
        if left_out:
            facts["warnings"].append(
                f"the classifier of {model} is new and random ({', '.join(left_out)}); train it before use"
            )
        else:
            facts["meta"] = known.meta
        return network, facts
    of_torchvision = Path(weights).name in {
        os.path.basename(w.url) for w in torchvision.models.get_model_weights(model)
    }
    network = weight_files.build_for_file(Path(weights), lambda k: build(k, of_torchvision), num_classes, model)
    facts["weights"] = file_facts(Path(weights))
    facts["meta"] = known.meta if of_torchvision else None
    return network, facts


# --- own models -------------------------------------------------------------------------------------------


def load_factory(model: str, weights: str, num_classes: int | None) -> tuple[nn.Module, dict[str, Any]]:
    factory = find_factory(model)
    takes = inspect.signature(factory).parameters
    takes_classes = "num_classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
    own = {"pretrained": True} if weights == "default" and "pretrained" in takes else {}

    def call(classes: int | None) -> Any:
        if not takes_classes or classes is None:
            return factory(**own)
        try:
            return factory(**own, num_classes=classes)
        except TypeError as error:
            if "num_classes" in takes or "num_classes" not in str(error):
                raise
            return factory(**own)  # its **kwargs do not mean that

    if num_classes is not None and not takes_classes:
        raise ModelError(f"{model} takes no num_classes; leave --num-classes out, or give the factory that parameter")

    def build(classes: int | None) -> nn.Module:
        try:
            network = call(classes)
        except Exception as error:
            raise ModelError(f"{model} failed at {place_in_model(error)}: {error}") from error
        if not isinstance(network, nn.Module):
            raise ModelError(f"{model} returned a {type(network).__name__}; it must return a torch.nn.Module")
        return network

    facts: dict[str, Any] = {"preset": None, "meta": None, "warnings": [], "weights": {"source": "factory"}}
    if weights == "auto" and takes.get("pretrained") is not None and takes["pretrained"].default is False:
        facts["warnings"].append(NOT_PRETRAINED.format(model=model))
    if weights in ("auto", "default", "none"):
        return build(num_classes), facts
    facts["weights"] = file_facts(Path(weights))
    return weight_files.build_for_file(Path(weights), build, num_classes, model, takes_classes), facts


def find_factory(model: str) -> Callable[..., Any]:
    module_name, _, name = model.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(f"no module named {error.name!r} for model {model}; run where it can be imported") from error
    except Exception as error:
        raise ModelError(f"importing {module_name} failed at {place_in_model(error)}: {error}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        close = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], 3, 0.4)
        raise ModelError(
            f"{module_name} has no function {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else "")
        )
    return factory


def file_facts(path: Path) -> dict[str, Any]:
    return {"source": "file", "name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


# --- trying -----------------------------------------------------------------------------------------------


def answer(network: nn.Module, spec: InputSpec, model: str, seed: int) -> Tensor:
    """Run it once on one image: does this size work, and how many classes are there? Logits (1,K)."""
    image = torch.randn(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(seed))
    try:
        with torch.no_grad():
            return logits_of(network(image), model)
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{model} fails on a {spec.channels}x{spec.height}x{spec.width} image ({reason});"
            " does it run in PyTorch? --input-size gives another size, its attribute `channels` other channels"
        ) from error


def logits_of(result: Any, model: str) -> Tensor:
    if isinstance(result, dict):
        result = result.get("out", result.get("logits"))
    elif isinstance(result, tuple) and hasattr(result, "logits"):
        result = result.logits
    if not isinstance(result, Tensor) or result.dim() != 2 or result.shape[0] != 1:
        found = (
            f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
        )
        raise ModelError(f"{model} returns {found}; it must return one tensor of logits, (batch, classes)")
    return result
