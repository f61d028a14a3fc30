"""Small networks as people write them, each with something that tracing or compiling could stumble over."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Inception(nn.Module):
    """Four branches of different depth, joined; branches of branches."""

    input_size = 20

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.branch1 = nn.Conv2d(12, 4, 1)
        self.branch2 = nn.Sequential(nn.Conv2d(12, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, (1, 3), padding=(0, 1)))
        self.branch2b = nn.Conv2d(8, 5, (3, 1), padding=(1, 0))
        self.branch3 = nn.Conv2d(12, 7, 5, padding=2)
        self.pooled = nn.Conv2d(12, 3, 1)
        self.after = nn.Conv2d(27, 16, 3, padding=1)
        self.fc = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        second = self.branch2(x)
        parts = [self.branch1(x), second, self.branch2b(second), self.branch3(x)]
        parts += [self.pooled(F.avg_pool2d(x, 3, stride=1, padding=1))]
        return self.fc(F.relu(self.after(torch.cat(parts, 1))).mean((-1, -2)))


class Recurrent(nn.Module):
    """One block shared by three steps, with a norm of its own for each."""

    input_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3))
        self.act = nn.SiLU(inplace=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for norm in self.norms:
            x = x + self.act(norm(self.block(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


class Functional(nn.Module):
    """No layer at all: parameters and functions."""

    input_size = 18

    def __init__(self) -> None:
        super().__init__()
        self.k1, self.b1 = nn.Parameter(torch.randn(10, 3, 3, 3) * 0.3), nn.Parameter(torch.zeros(10))
        self.k2 = nn.Parameter(torch.randn(10, 1, 3, 3) * 0.3)
        self.register_buffer("mean", torch.rand(10) * 0.1)
        self.register_buffer("running_var", torch.rand(10) + 0.5)
        self.k3 = nn.Parameter(torch.randn(10, 10, 3, 3) * 0.3)
        self.w = nn.Parameter(torch.randn(4, 10) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(F.conv2d(x, self.k1, self.b1, stride=2))
        x = F.batch_norm(
            F.conv2d(x, self.k2, padding=1, groups=10), self.mean, self.running_var, training=self.training
        )
        x = F.dropout(F.elu(x), 0.5, self.training)
        x = F.softmax(F.conv2d(x, self.k3), 1)
        return F.linear(torch.flatten(F.adaptive_max_pool2d(x, (1, 1)), 1), self.w)


class Overwriting(nn.Module):
    """In-place operators and methods, on values that are read again under their old names."""

    input_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        kept = x
        x += 0.5
        x.relu_()
        y = self.conv2(kept)
        y.clamp_(-1, 1).mul_(2)
        y -= 0.25
        return self.fc(y.mean(3).mean(2))


class Panorama(nn.Module):
    """Images four times as wide as high, strides and kernels that differ between the two."""

    input_size = (12, 48)

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, (3, 7), stride=(1, 3), padding=(1, 3))
        self.tall = nn.Conv2d(8, 12, (5, 1), stride=(2, 1), padding=(2, 0))
        self.pool = nn.MaxPool2d((1, 2), stride=(1, 2), ceil_mode=True)
        self.last = nn.Conv2d(12, 12, 3)
        self.fc = nn.Linear(12 * 4 * 6, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.tall(F.leaky_relu(self.wide(x), 0.1))))
        return self.fc(F.relu(self.last(x)).flatten(1))


class Gray(nn.Module):
    """One channel, a first convolution as large as a digit, classes of its own."""

    input_size, channels = 28, 1
    mean, std = (0.13,), (0.31,)
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Linear(256, 84), nn.Tanh(), nn.Linear(84, 10), nn.LogSoftmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).view(-1, 256))


class Dilated(nn.Module):
    """Context without strides: dilations 1, 2 and 4, one of them grouped."""

    input_size = 17

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, dilation=1)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.c = nn.Conv2d(8, 8, 3, padding=(4, 8), dilation=(4, 8))
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(x + self.b(x))
        x = torch.relu(x + self.c(x))
        return self.out(x).amax(dim=(2, 3))


class Asymmetric(nn.Module):
    """Padding as TensorFlow's, more at the end; constants other than zero; even kernels."""

    input_size = 15

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.even = nn.Conv2d(8, 8, 4, padding="same")
        self.edge = nn.ConstantPad2d((2, 0, 1, 0), 0.5)
        self.last = nn.Conv2d(8, 8, 2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.conv(self.pad(x)))
        x = F.relu(self.even(F.pad(x, (1, 0), value=1.0)))
        return self.fc(F.gelu(self.last(self.edge(x))).mean([2, 3]))


class Grouped(nn.Module):
    """No batch norm: group norm, instance norm, layer norm over channels; a scale for every block."""

    input_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.groups = nn.GroupNorm(4, 12)
        self.conv = nn.Conv2d(12, 12, 3, padding=1)
        self.instance = nn.InstanceNorm2d(12)
        self.gamma = nn.Parameter(torch.full((1, 12, 1, 1), 0.5))
        self.norm = nn.LayerNorm(12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.groups(self.stem(x)))
        x = x + self.gamma * self.instance(self.conv(x))
        return self.fc(self.norm(x.mean((2, 3))))


class WeirdNames(nn.Module):
    """Modules named like Python's words, like exits, with dots and digits; forward with an option."""

    input_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.exit0 = nn.Conv2d(3, 8, 3, padding=1)
        self.add_module("lambda", nn.BatchNorm2d(8))
        self.add_module("0", nn.ReLU())
        self.blocks = nn.ModuleDict({"class": nn.Conv2d(8, 8, 3, padding=1), "größe": nn.Conv2d(8, 8, 1)})
        self.final = nn.Linear(8, 4)

    def forward(self, input: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        x = getattr(self, "0")(getattr(self, "lambda")(self.exit0(input)))
        for _ in range(2):
            x = self.blocks["größe"](x) + F.relu(self.blocks["class"](x))
        pooled = x.mean((2, 3))
        if return_features:
            return self.final(pooled), x
        return self.final(pooled)


class UpAndDown(nn.Module):
    """Images that grow and shrink by any size, by weights too; coordinates; a mirror; a mean of several answers."""

    input_size = 24

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, 12, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1)
        self.gate, self.down = nn.Conv2d(12, 8, 1), nn.Conv2d(16, 12, 3, stride=2, padding=1)
        self.register_buffer("rows", torch.linspace(-1, 1, 24).view(1, 1, 24, 1).expand(1, 1, 24, 24).contiguous())
        self.fcs = nn.ModuleList(nn.Linear(12, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows.expand(x.shape[0], -1, -1, -1)
        x = F.relu(self.stem(torch.cat((x, rows, rows.transpose(2, 3)), 1)))
        gate = F.interpolate(
            self.gate(F.avg_pool2d(x, 5)).sigmoid(), size=(24, 24), mode="bilinear", align_corners=False
        )
        grown = self.up(x) * gate
        x = F.relu(self.down(torch.cat((grown, grown.flip(3)[:, ::3], grown[:, [6, 1, 4, 2, 0]]), 1)))
        x = F.interpolate(F.interpolate(x, 7), size=(10, 9), mode="bicubic") + x[:, :, 1:11, 2:11]
        tokens = torch.einsum("bchw,bdhw->bcd", x, x.softmax(1)) * 0.1
        pooled = F.adaptive_avg_pool1d(tokens, 1).squeeze(-1)
        return torch.stack([fc(pooled) for fc in self.fcs]).mean(0)


ALL = (
    Inception,
    Recurrent,
    Functional,
    Overwriting,
    Panorama,
    Gray,
    Dilated,
    Asymmetric,
    Grouped,
    WeirdNames,
    UpAndDown,
)
