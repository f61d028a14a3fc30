"""A network that is not torchvision's: `perse-compile insert-exits own_model:leaf_net` in this folder.

docs/own-model.md tells the rest. `python own_model.py FILE.pth` writes weights (random ones: train it on your images).
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Depthwise and pointwise convolution with a residual; group norm, since batches were small in training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.GroupNorm(4, channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.pointwise(self.norm(self.depthwise(x))))


class LeafNet(nn.Module):
    """What its images are is read from these attributes; all are optional."""

    input_size = (64, 96)  # height, width
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.2, 0.2)  # of x = (pixel / 255 - mean) / std
    class_names: tuple[str, ...]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, stride=4)
        self.early = nn.Sequential(Block(16), Block(16))
        self.down = nn.Conv2d(16, 32, 2, stride=2)
        self.late = nn.Sequential(Block(32), Block(32))
        self.classifier = nn.Linear(32, num_classes)
        self.class_names = ("ash", "birch", "elm", "oak")[:num_classes]

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        features = self.late(self.down(self.early(self.stem(x))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return (logits, features) if return_features else logits


def leaf_net(num_classes: int = 4) -> nn.Module:
    """The factory. With a parameter `num_classes`, the number of classes can be that of a weights file."""
    return LeafNet(num_classes)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(leaf_net().state_dict(), sys.argv[1])
