"""What a network's images and classes are, as far as it says so: by attributes, or in timm's `pretrained_cfg`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from perse_compile.errors import ModelError
from perse_compile.program import InputSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY_MEAN, GRAY_STD = (0.449,), (0.226,)


def input_spec(network: nn.Module, facts: dict[str, Any], input_size: tuple[int, int] | None) -> InputSpec:
    preset = facts["preset"]
    size = input_size or numbers("input_size", said_of(network, "input_size"))
    if size is None:
        size = (preset.crop_size[0] if preset is not None else 224,)
    height, width = (int(side) for side in (size if len(size) > 1 else size * 2)[-2:])
    if min(height, width) < 1:
        raise ModelError(f"input size {height}x{width} is not a size; give --input-size as N or HxW")
    said = said_of(network, "channels")
    channels = int(said) if isinstance(said, Integral) else channels_it_takes(network, height, width)
    mean: Sequence[float] = numbers("mean", said_of(network, "mean")) or (
        preset.mean if preset is not None else default(channels, IMAGENET_MEAN, GRAY_MEAN, 0.5)
    )
    std: Sequence[float] = numbers("std", said_of(network, "std")) or (
        preset.std if preset is not None else default(channels, IMAGENET_STD, GRAY_STD, 0.5)
    )
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ModelError(
            f"mean {tuple(mean)} and std {tuple(std)} do not fit {channels} channels; correct the model's attributes"
        )
    return InputSpec(int(height), int(width), channels, tuple(map(float, mean)), tuple(map(float, std)))


def channels_it_takes(network: nn.Module, height: int, width: int) -> int:
    """Those of the first convolution, unless the network makes them of an image's and takes 3, or 1."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    for tried in () if channels in (1, 3) else (channels, 3, 1):
        with suppress(Exception), torch.no_grad():
            network(torch.zeros(1, tried, height, width))
            return tried
    return channels


def said_of(network: nn.Module, name: str) -> Any:
    """An attribute, or timm's `pretrained_cfg[name]`; no part of the network that is called so (a buffer `mean`)."""
    parts = {**network._parameters, **network._buffers, **network._modules}
    said = None if name in parts else getattr(network, name, None)
    config = getattr(network, "pretrained_cfg", None)
    return config.get(name) if said is None and isinstance(config, dict) else said


def numbers(name: str, said: Any) -> tuple[float, ...] | None:
    """One or several, of whatever holds numbers."""
    if said is None or callable(said):
        return None
    try:
        return tuple(float(number) for number in np.asarray(said, np.float64).reshape(-1))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's {name} is {said!r}; it must be numbers") from error


def default(channels: int, rgb: tuple[float, ...], gray: tuple[float, ...], other: float) -> tuple[float, ...]:
    return {3: rgb, 1: gray}.get(channels, (other,) * channels)


def class_names(network: nn.Module, facts: dict[str, Any], count: int) -> list[str]:
    said = said_of(network, "class_names")
    given = None if said is None or callable(said) else list(said)
    if given is None and facts["meta"] is not None:
        given = facts["meta"]["categories"]
    if given is None:
        return [f"class{i}" for i in range(count)]
    if len(given) != count:
        raise ModelError(f"the model has {len(given)} class names and {count} outputs; correct its class_names")
    return [str(name) for name in given]
