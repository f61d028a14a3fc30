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


class MobileViT(nn.Module):
    """Mehta and Rastegari 2021: the same pixel of every patch as a row of tokens; rows are a batch of their own."""

    input_size = 32

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.local, self.joined = conv(channels, channels, act=nn.SiLU), conv(2 * channels, channels, act=nn.SiLU)
            self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
            self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels))

        def forward(self, x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            rows, columns = h // 2, w // 2
            t = self.local(x).reshape(b * c * rows, 2, columns, 2).transpose(1, 2)
            t = t.reshape(b, c, rows * columns, 4).transpose(1, 3).reshape(b * 4, rows * columns, c)
            qkv = self.qkv(self.norm1(t)).reshape(b * 4, rows * columns, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
            t = t + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            t = t + self.mlp(self.norm2(t))
            t = t.view(b, 4, rows * columns, c).transpose(1, 3)
            t = t.reshape(b * c * rows, columns, 2, 2).transpose(1, 2).reshape(b, c, h, w)
            return self.joined(torch.cat((x, t), dim=1))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2, act=nn.SiLU), conv(16, 16, act=nn.SiLU))
        self.blocks = nn.Sequential(self.Block(16), conv(16, 24, stride=2, act=nn.SiLU), self.Block(24))
        self.fc = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class MaxViT(nn.Module):
    """Tu et al. 2022, Swin: attention within windows and across them, with a bias for each distance."""

    input_size = 36

    class Attention(nn.Module):
        def __init__(self, channels: int, size: int, across: bool) -> None:
            super().__init__()
            self.size, self.across, self.scale = size, across, (channels // 2) ** -0.5
            self.norm, self.qkv, self.proj = (
                nn.LayerNorm(channels),
                nn.Linear(channels, 3 * channels),
                nn.Linear(channels, channels),
            )
            self.bias = nn.Parameter(torch.randn((2 * size - 1) ** 2, 2))
            at = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
            off = at[:, :, None] - at[:, None, :] + size - 1
            self.register_buffer("index", off[0] * (2 * size - 1) + off[1])

        def forward(self, x: Tensor) -> Tensor:
            b, h, w, c = x.shape
            s = self.size
            if self.across:
                parts = x.view(b, s, h // s, s, w // s, c).permute(0, 2, 4, 1, 3, 5)
            else:
                parts = x.view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5)
            t = parts.contiguous().view(-1, s * s, c)
            qkv = self.qkv(self.norm(t)).reshape(t.shape[0], s * s, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            likeness = (q * self.scale) @ k.transpose(-2, -1)
            bias = self.bias[self.index.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1).contiguous()
            weights = (likeness + bias.unsqueeze(0)).softmax(dim=-1)
            t = self.proj((weights @ v).transpose(1, 2).reshape(-1, s * s, c))
            t = t.view(b, h // s, w // s, s, s, c)
            t = t.permute(0, 3, 1, 4, 2, 5) if self.across else t.permute(0, 1, 3, 2, 4, 5)
            return x + t.reshape(b, h, w, c)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2), conv(16, 16, act=nn.GELU))
        self.near, self.far = self.Attention(16, 6, False), self.Attention(16, 6, True)
        self.between = nn.Sequential(conv(16, 16, act=nn.GELU), conv(16, 16, act=nn.GELU))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.near(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.far(self.between(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.fc(x.mean((2, 3)))


class BottleneckTransformer(nn.Module):
    """Srinivas et al. 2021: heads as a batch of their own, distances by padding and slicing."""

    input_size = 32

    class Attention(nn.Module):
        def __init__(self, channels: int, size: int) -> None:
            super().__init__()
            self.heads, self.size, self.qkv = 2, size, nn.Conv2d(channels, 3 * channels, 1, bias=False)
            self.height = nn.Parameter(torch.randn(2 * size - 1, channels // 2) * 0.1)
            self.width = nn.Parameter(torch.randn(2 * size - 1, channels // 2) * 0.1)
            self.norm = nn.BatchNorm2d(channels)

        def distances(self, q: Tensor, table: Tensor, order: tuple[int, ...]) -> Tensor:
            b, h, w, _ = q.shape
            x = F.pad((q @ table.transpose(-1, -2)).reshape(-1, w, 2 * w - 1), [0, 1]).flatten(1)
            x = F.pad(x, [0, w - 1]).reshape(-1, w + 1, 2 * w - 1)[:, :w, w - 1 :]
            return x.reshape(b, h, 1, w, w).expand(-1, -1, h, -1, -1).permute(order)

        def forward(self, x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            q, k, v = torch.split(self.qkv(x), c, dim=1)
            q = q.reshape(b * self.heads, c // 2, h * w).transpose(-1, -2)
            k, v = k.reshape(b * self.heads, c // 2, -1), v.reshape(b * self.heads, -1, h * w).transpose(-1, -2)
            likeness = (q @ k) * (c // 2) ** -0.5
            rows = q.reshape(b * self.heads, h, w, -1)
            far = self.distances(rows, self.width, (0, 1, 3, 2, 4))
            far = far + self.distances(rows.transpose(1, 2), self.height, (0, 3, 1, 4, 2))
            weights = (likeness + far.reshape(b * self.heads, h * w, h * w)).softmax(dim=-1)
            return F.relu(self.norm((weights @ v).transpose(-1, -2).reshape(b, c, h, w)))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 12, stride=2), conv(12, 24, stride=2), conv(24, 24))
        self.first, self.second = self.Attention(24, 8), self.Attention(24, 8)
        self.fc = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        return self.fc((x + self.second(x)).mean((2, 3)))


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
    MobileViT,
    MaxViT,
    BottleneckTransformer,
)
