"""A network of one's own: what `perse-compile insert-exits model:fashion_shufflenet` calls in this folder.

A factory returns a torch.nn.Module. What its images are is read from the module's attributes, all optional:
`class_names`, `input_size`, `channels`, `mean`, `std`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torchvision  # type: ignore[import-untyped,unused-ignore]
from torch import nn

FACTS = json.loads((Path(__file__).parent / "fashion_mnist_shufflenet.json").read_text())


def fashion_shufflenet() -> nn.Module:
    """torchvision's shufflenet_v2_x1_0 for Fashion-MNIST; `--weights fashion_mnist_shufflenet.safetensors` fills it."""
    network: nn.Module = torchvision.models.shufflenet_v2_x1_0(weights=None, num_classes=len(FACTS["classes"]))
    network.class_names = FACTS["classes"]
    network.input_size = FACTS["input"][:2]
    network.mean, network.std = FACTS["mean"], FACTS["std"]
    return network
