"""Small networks of our own, each with something that networks do; also factories for `package.module:factory`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Convolutions with batch norm, a pool, a linear layer."""

    input_size = 16

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.mean((2, 3))))


class Branches(nn.Module):
    """Two branches that join, a residual, squeeze and excitation with expand_as."""

    input_size = (16, 12)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.left = nn.Conv2d(8, 4, 1)
        self.right = nn.Conv2d(8, 4, 4, padding="same", groups=4)
        self.squeeze = nn.Linear(8, 8)
        self.last = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.cat([self.left(x), self.right(x)], -3)
        gate = torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(y, 1).view(y.size(0), -1)))
        y = y * gate.view(y.shape[0], y.shape[1], 1, 1).expand_as(y) + x
        return F.log_softmax(F.adaptive_avg_pool2d(self.last(y), 1).flatten(1), dim=1)


class Shared(nn.Module):
    """One convolution and one norm used twice; a head called final; an attribute called exit0."""

    input_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)
        self.exit0 = nn.Conv2d(3, 7, 1)
        self.final = nn.Linear(7 * 4 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = F.relu(self.bn(self.conv(x)))
        x = F.relu(self.other(self.conv(x)))
        x = F.max_pool2d(self.exit0(x), 2)
        return self.final(x.reshape(len_of(x), -1))


def len_of(x: Tensor) -> Any:
    return x.shape[0]


class InPlace(nn.Module):
    """In-place operations whose old name is read afterwards."""

    input_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        before = x
        y = self.relu(x)
        y = y + before  # before is relu(x) by now
        y.mul_(2.0).add_(before)
        return self.fc(torch.mean(y, dim=[2, 3]))


class Pieces(nn.Module):
    """chunk, split, slices with steps, indices, shuffles, permutes, constants per channel, arithmetic on sizes."""

    input_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
        self.gain = nn.Parameter(torch.rand(8, 1, 1))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.prelu = nn.PReLU(8)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8 + 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.offset) / 0.5
        x = torch.cat([torch.unsqueeze(x[:, 2], 1), x[:, :2]], 1)
        x = self.prelu(self.stem(x)) * self.gain
        n, c, h, w = x.size()
        a, b = x.chunk(2, dim=1)
        d, e = torch.split(b, [1, 3], 1)
        x = torch.cat([e, a, d], 1)
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        x = x[:, :, ::2, 1::2]
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = F.gelu(F.hardtanh(x, -2, 2), approximate="tanh")
        peak = x.amax((2, 3))[..., 1:3]
        return self.fc(torch.cat((1 - x.mean(3).mean(2), peak), 1))


class OddNames(nn.Module):
    """Modules called like functions and like graph nodes; a norm that nothing folds into."""

    input_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.add = nn.BatchNorm2d(3)
        self.input = nn.Conv2d(3, 4, 3)
        self.output = nn.Sequential(
            nn.ReLU6(), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(36, 8, bias=False)
        )
        self.import_ = nn.BatchNorm1d(8)
        self.print = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.print(self.import_(self.output(self.input(self.add(image)))))


class Branching(nn.Module):
    """Cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.fc(x).mean((2, 3))


class Described(nn.Module):
    """Says what its images are."""

    input_size = (10, 12)
    mean = (0.4,)
    std = (0.2,)
    class_names = ("cat", "dog")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.conv(x).mean((2, 3)), "aux": x}


class Computes(nn.Module):
    """forward is the function given; for operations that cannot be compiled."""

    input_size = 8

    def __init__(self, function: Any, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


ALL = (Plain, Branches, Shared, InPlace, Pieces, OddNames)


def plain(num_classes: int = 5) -> nn.Module:
    return Plain(num_classes)


def branching() -> nn.Module:
    return Branching()


def described() -> nn.Module:
    return Described()


def growing() -> nn.Module:
    return Computes(lambda m, x: m.up(x).mean((2, 3)), up=nn.ConvTranspose2d(3, 3, 2, 2))


def not_a_module() -> int:
    return 3


def failing() -> nn.Module:
    raise RuntimeError("no such luck")
