"""Small networks with the blocks of published ones that torchvision does not have, as their authors write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(i: int, o: int, kernel: int = 3, stride: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o), act())


class CifarResNet(nn.Module):
    """He et al. 2016, shortcuts without weights (option A): pixels left out, channels of zeros added."""

    input_size = 32

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = conv(i, o, stride=stride), conv(o, o, act=nn.Identity)
            self.stride, self.added = stride, (o - i) // 2

        def forward(self, x: Tensor) -> Tensor:
            short = x
            if self.stride > 1:
                short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added), "constant", 0)
            return F.relu(self.conv2(self.conv1(x)) + short)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.blocks = nn.Sequential(self.Block(16, 16, 1), self.Block(16, 32, 2), self.Block(32, 64, 2))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class AttentionResNet(nn.Module):
    """Woo et al. 2018 (CBAM) and Wang et al. 2020 (ECA): attention to channels and to places."""

    input_size = 32

    class Cbam(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.shared = nn.Sequential(
                nn.Conv2d(channels, channels // 4, 1, bias=False), nn.ReLU(), nn.Conv2d(channels // 4, channels, 1)
            )
            self.where = nn.Conv2d(2, 1, 7, padding=3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            of_mean, of_most = (self.shared(pool(x, 1)) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d))
            x = x * torch.sigmoid(of_mean + of_most)
            most, _ = torch.max(x, dim=1, keepdim=True)
            return x * torch.sigmoid(self.where(torch.cat([torch.mean(x, dim=1, keepdim=True), most], dim=1)))

    class Eca(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
            return x * y.sigmoid().expand_as(x)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 16, stride=2), self.Cbam(16), conv(16, 32, stride=2), self.Eca(), conv(32, 64, stride=2),
            self.Cbam(64), conv(64, 64),
        )  # fmt: skip
        self.fc = nn.Linear(64, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean([2, 3]))


class CspDarknet(nn.Module):
    """Bochkovskiy et al. 2020 (YOLOv4's backbone): Mish, halves that go around, pools of several sizes."""

    input_size = 48

    class Stage(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.down = conv(i, o, stride=2, act=nn.Mish)
            self.around, self.through = (conv(o, o // 2, 1, act=nn.Mish) for _ in range(2))
            self.inside, self.joined = conv(o // 2, o // 2, act=nn.Mish), conv(o, o, 1, act=nn.Mish)

        def forward(self, x: Tensor) -> Tensor:
            x = self.down(x)
            y = self.through(x)
            return self.joined(torch.cat([y + self.inside(y), self.around(x)], 1))

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            conv(3, 8, act=nn.Mish), self.Stage(8, 16), self.Stage(16, 32), self.Stage(32, 64), self.Stage(64, 64)
        )
        self.fc = nn.Linear(256, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)
        x = torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class FirstAlexNet(nn.Module):
    """Krizhevsky et al. 2012: response normalisation, two groups."""

    input_size = 67

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 48, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2), nn.MaxPool2d(3, 2),
            nn.Conv2d(48, 64, 5, padding=2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5, 0.1), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 64, 3, padding=1, groups=2), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class HighResolution(nn.Module):
    """Wang et al. 2020 (HRNet): two resolutions that exchange."""

    input_size = 48

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem2 = conv(3, 8, stride=2), conv(8, 16)
        self.high, self.low = conv(16, 16), conv(16, 32, stride=2)
        self.up = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Upsample(scale_factor=2))
        self.down, self.last = conv(16, 32, stride=2, act=nn.Identity), conv(16, 32, stride=2)
        self.after = conv(32, 48, stride=2)
        self.fc = nn.Linear(48, 9)

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem2(self.stem(x))
        high, low = self.high(high), self.low(high)
        high, low = F.relu(high + self.up(low)), F.relu(low + self.down(high))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.after(self.last(high) + low), 1), 1))


class ConvNextV2(nn.Module):
    """Woo et al. 2023: global response norm; the layer norm of images written by hand."""

    input_size = 32

    class Norm(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean(1, keepdim=True)
            variance = (x - mean).pow(2).mean(1, keepdim=True)
            return self.weight[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias[:, None, None]

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
            self.norm = nn.LayerNorm(channels, eps=1e-6)
            self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
            self.gamma, self.beta = (nn.Parameter(torch.full((1, 1, 1, 4 * channels), v)) for v in (0.5, 0.1))

        def forward(self, x: Tensor) -> Tensor:
            y = F.gelu(self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
            length = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
            y = self.gamma * (y * (length / (length.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + y
            return x + self.narrow(y).permute(0, 3, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 2, 2), self.Norm(16), self.Block(16), self.Block(16), self.Norm(16),
            nn.Conv2d(16, 32, 2, 2), self.Block(32),
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(x).mean([-2, -1])))


class Retrieval(nn.Module):
    """Slices of every other pixel as channels (YOLOv5's Focus), SELU, generalised means, features of length 1."""

    input_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(12, 16, act=nn.SiLU), conv(64, 32, act=nn.SELU)
        self.third = conv(32, 32, act=nn.Softplus)
        self.shuffle, self.p = nn.PixelUnshuffle(2), nn.Parameter(torch.ones(1) * 3)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        x = self.third(self.second(self.shuffle(self.first(torch.cat(parts, 1)))))
        x = F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), (x.size(-2), x.size(-1))).pow(1.0 / self.p)
        return self.fc(F.normalize(x.flatten(1)))


class NonLocal(nn.Module):
    """Wang et al. 2018 (a non-local block), and attention in two heads as in Srinivas et al. 2021."""

    input_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.query, self.key, self.value = (nn.Conv2d(16, o, 1) for o in (8, 8, 16))
        self.gamma = nn.Parameter(torch.ones(1))
        self.down = conv(16, 32, stride=2)
        self.qkv = nn.Conv2d(32, 96, 1)
        self.down2 = conv(32, 32, stride=2)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        query, key = self.query(x).view(n, -1, h * w).permute(0, 2, 1), self.key(x).view(n, -1, h * w)
        alike = F.softmax(torch.bmm(query, key), dim=-1)
        value = torch.bmm(self.value(x).view(n, -1, h * w), alike.permute(0, 2, 1))
        x = self.down(self.gamma * value.view(n, c, h, w) + x)
        q, k, v = (part.view(n, 2, 16, -1).transpose(2, 3) for part in self.qkv(x).chunk(3, 1))
        heads = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return self.fc(self.down2(x + heads.reshape(x.shape)).mean((2, 3)))


class CompactTransformer(nn.Module):
    """Hassani et al. 2021: attention among places that convolutions made, written with chunks, views and `@`."""

    input_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.place = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.full((1, 64, 32), 0.1))
        self.norm, self.qkv, self.after = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.down, self.last, self.fc = conv(32, 48, stride=2), conv(48, 48), nn.Linear(48, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.place
        n, places, channels = x.shape
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.reshape(n, places, 4, channels // 4).transpose(1, 2) for part in parts)
        weights = (q @ k.transpose(-2, -1) * (channels // 4) ** -0.5).softmax(-1)
        x = x + self.after((weights @ v).transpose(1, 2).reshape(n, places, channels))
        x = x + self.mlp(x)
        return self.fc(self.last(self.down(x.transpose(1, 2).view(n, channels, 8, 8))).mean((2, 3)))


ALL = (
    CifarResNet,
    AttentionResNet,
    CspDarknet,
    FirstAlexNet,
    HighResolution,
    ConvNextV2,
    Retrieval,
    NonLocal,
    CompactTransformer,
)
