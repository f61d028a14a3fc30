"""Weights for a model: pretrained ones if they can be had quickly, or a file that must be of this very model."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from perse_compile.errors import ModelError

State = dict[str, Tensor]
PROBE_SECONDS = 4.0
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of googlenet and inception that serve training only


def pretrained(url: str) -> State | str:
    """The state behind a torch hub URL, from the cache or the net; or, in a few seconds, why it cannot be had."""
    cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    if not os.path.exists(cached):
        reason = unreachable(url)
        if reason is not None:
            return reason
    try:
        state: State = torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        return f"{os.path.basename(url)}: {type(error).__name__}"
    return state


def unreachable(url: str) -> str | None:
    """Why a URL cannot be fetched, or None. In a thread, since looking up a name knows no time limit."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
            answer.append(None)
        except (OSError, ValueError) as error:
            answer.append("offline" if isinstance(error, urllib.error.URLError) else type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0] if answer else "offline"


def read_state(path: Path) -> State:
    """A state dict from `.safetensors`, or from `.pth` without running anything in it."""
    if not path.is_file():
        raise ModelError(f"no weights file {path}; --weights takes auto, default, none or a file")
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as weights ({str(error).splitlines()[0]}); is it whole?") from error
    except Exception as error:  # pickle.UnpicklingError and what else an unknown pickle raises
        raise ModelError(f"{path} holds more than tensors; save it with torch.save(model.state_dict(), ...)") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()) or not state:
        raise ModelError(f"{path} is not a state dict; save it with torch.save(model.state_dict(), ...)")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def build_for_file(
    path: Path,
    build: Callable[[int | None], nn.Module],
    num_classes: int | None,
    model: str,
    takes_classes: bool = True,
) -> nn.Module:
    """The model with the file's weights; the number of classes is the file's unless it is given."""
    state = read_state(path)
    network = build(num_classes)
    if num_classes is None and takes_classes:
        counts = {state[name].shape[0] for name in classifier_of_another_size(network, state)}
        if len(counts) == 1:
            network = build(counts.pop())
    fill(network, state, model)
    return network


def fill(network: nn.Module, state: State, model: str, new_classifier: bool = False) -> list[str]:
    """Load the state, which must fit; with `new_classifier` tensors that differ in classes stay and are returned."""
    own = network.state_dict()
    state = {name: t for name, t in state.items() if name in own or not name.startswith(AUXILIARY)}
    left_out = classifier_of_another_size(network, state) if new_classifier else []
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    other = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape and n not in left_out
    ]
    if missing or unexpected or other:
        faults = [("missing", missing), ("unexpected", unexpected), ("of another shape", other)]
        told = "; ".join(
            f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            for what, names in faults
            if names
        )
        raise ModelError(
            f"these weights are not of {model}: {told}; give its own file, or another MODEL or --num-classes"
        )
    network.load_state_dict({n: t for n, t in state.items() if n not in left_out}, strict=False)
    return left_out


def classifier_of_another_size(network: nn.Module, state: State) -> list[str]:
    """Tensors whose shapes differ in the first dimension only, where all of them have one size: the last layer's."""
    own = network.state_dict()
    names = [n for n, t in own.items() if n in state and state[n].shape != t.shape]
    fits = all(own[n].dim() == state[n].dim() > 0 and own[n].shape[1:] == state[n].shape[1:] for n in names)
    sizes = {(own[n].shape[0], state[n].shape[0]) for n in names}
    return names if fits and len(sizes) == 1 and len(names) <= 2 else []
