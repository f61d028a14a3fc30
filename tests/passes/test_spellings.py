"""Operations as people write them: canonicalised they compute what they did. ops themselves: tests/test_kernels.py."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.errors import PassError
from perse_compile.passes import analysis_pipeline
from perse_compile.passes.canonicalise import Canonicalise
from perse_compile.passes.evaluation_form import EvaluationForm
from perse_compile.pipeline import run
from tests.helpers import check_pass, traced

pytestmark = pytest.mark.filterwarnings("ignore:Implicit dimension", r"ignore:var\(\)")
CHANNELS, SIZE = 8, 6


class Around(nn.Module):
    """A network with something in its middle, which gets (N, 8, 6, 6)."""

    input_size = SIZE

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.first(x)).flatten(1)


def positive(x: Tensor) -> Tensor:
    return x.mul(x) + 0.1


def cbam(x: Tensor) -> Tensor:
    most, _ = torch.max(x, dim=1, keepdim=True)
    return x * torch.sigmoid(torch.cat([x.mean(1, keepdim=True), most], 1).sum(1, keepdim=True))


class GeneralisedMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([2.5]))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), 3).pow(1.0 / self.p)


FROM_THE_LEFT = torch.linspace(-1, 1, 4 * SIZE).view(4, SIZE)


def grown(x: Tensor) -> Tensor:
    """Transposed convolutions: by two with groups, more than fits, and of stride one."""
    weight = torch.linspace(-1, 1, CHANNELS * 3 * 3 * 3).view(CHANNELS, 3, 3, 3)
    by_two = F.conv_transpose2d(x, weight, torch.ones(6), stride=2, padding=1, output_padding=1, groups=2)
    wide = F.conv_transpose2d(by_two, weight[:6, :, :2, :2], stride=(3, 2), dilation=2)
    return F.conv_transpose2d(wide, weight[:3], padding=2)


class Constants(nn.Module):
    """Coordinates as channels, and a class token: what does not depend on the image is joined to it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.linspace(-1, 1, SIZE).view(1, 1, SIZE, 1).repeat(1, 1, 1, SIZE))
        self.token = nn.Parameter(torch.linspace(0, 1, CHANNELS + 2).view(1, 1, CHANNELS + 2))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows.expand(x.shape[0], -1, -1, -1)
        x = torch.cat([rows, x, rows.transpose(2, 3)], 1)
        tokens = torch.cat((self.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)), dim=1)
        return torch.cat([tokens + self.token.expand_as(tokens), self.token.repeat(x.shape[0], 1, 1)], 1)


def windows(x: Tensor) -> Tensor:
    """Attention within windows of 3x2 pixels, which are a batch of their own, as in Swin and MaxViT."""
    n, c, h, w = x.shape
    parts = x.view(n, c, h // 3, 3, w // 2, 2).permute(0, 2, 4, 3, 5, 1).contiguous().view(-1, 6, c)
    parts = F.layer_norm(parts, (c,)) * torch.linspace(1, 2, c)
    likeness = (parts @ parts.transpose(-2, -1)).softmax(-1)
    parts = parts + likeness @ F.gelu(parts) + parts.mean(1, keepdim=True)
    parts = torch.cat([parts[..., :4], parts[..., 4:] * 2.0], -1) + torch.linspace(0, 1, 6).view(1, 6, 1)
    back = parts.view(n, h // 3, w // 2, 3, 2, c).permute(0, 5, 1, 3, 2, 4)
    return back.reshape(n, c, h, w)


def heads(x: Tensor) -> Tensor:
    """Queries, keys and values of two heads, first of all dimensions, as in most transformers."""
    n, c, h, w = x.shape
    qkv = torch.cat([x, x * 2.0, x + 1.0], 1).view(n, 3, 2, c // 2, h * w).permute(1, 0, 2, 4, 3)
    q, k, v = qkv.unbind(0)
    first = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
    q, k, v = qkv[0], qkv.select(0, 1), qkv.chunk(3)[2].transpose(0, 1).squeeze(1)
    q = q.reshape(n * 2, h * w, c // 2)  # heads as images of their own, as in BoTNet
    out = torch.bmm(q.mul(0.1), k.reshape(-1, h * w, c // 2).transpose(1, 2)).softmax(dim=-1).view(n, 2, h * w, h * w)
    return torch.cat([first, (out @ v).transpose(1, 2).flatten(2)], 2)


def one_head_of_keys(x: Tensor) -> Tensor:
    """Four heads of queries, one of keys and values, as in MobileNetV4; and the other way round."""
    q, k = x.flatten(2).view(-1, 4, 2, SIZE * SIZE).transpose(2, 3), x[:, :2].flatten(2).transpose(1, 2).unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, k) + (k @ (q.transpose(2, 3) @ k))


def masks(x: Tensor) -> Tensor:
    near = torch.eye(SIZE, dtype=torch.bool) | torch.eye(SIZE, dtype=torch.bool).roll(1, 0)
    by_truth = F.scaled_dot_product_attention(x, x, x, attn_mask=near)
    return F.scaled_dot_product_attention(x, x, by_truth, torch.linspace(-3, 3, SIZE).repeat(CHANNELS, SIZE, 1))


def heads_by_einsum(x: Tensor) -> Tensor:
    q = x.flatten(2).view(-1, 2, 4, SIZE * SIZE)
    likeness = torch.einsum("bhdi, bhdj -> bhij", q, q * 0.5).softmax(-1)
    out = torch.einsum("bhij,bhdj->bihd", likeness, q).flatten(2)
    return torch.einsum("oc,bic->boi", torch.linspace(-1, 1, 24).view(3, 8), out)


def all_tokens(x: Tensor) -> Tensor:
    """A linear layer of (N * tokens, C), and of the tokens' logarithms."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    shares = F.linear(rows, torch.linspace(-1, 1, 48).view(6, 8)).softmax(1).log()
    return F.group_norm(shares.view(-1, 3, 2), 3, torch.ones(3), torch.ones(3), 0.1).view(x.shape[0], -1, 6)


def mean_of_stack(x: Tensor) -> Tensor:
    several = torch.stack([x, x * 2.0, x.relu()])
    return several.mean(0) + several.amax(dim=0) + several.permute(1, 2, 0, 3, 4).sum(2) + several.movedim(0, 1)[:, 1]


def response_norm(x: Tensor) -> Tensor:
    """ConvNeXt V2's."""
    length = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return x * (length / (length.mean(dim=1, keepdim=True) + 1e-6))


def non_local(x: Tensor) -> Tensor:
    """Wang et al. 2018."""
    places = x.flatten(2)
    alike = torch.bmm(places.permute(0, 2, 1), places).softmax(-1)
    return x + (places @ alike.transpose(1, 2)).view(x.shape)


def cloned(x: Tensor) -> Tensor:
    y = x.clone()
    y.add_(1)
    return x + y * 2.0


def one_of(x: Tensor) -> Tensor:
    return torch.unbind(x, 1)[3]


MIDDLES: dict[str, Callable[[Tensor], Tensor]] = {
    "Mish": nn.Mish(), "SELU": nn.SELU(), "CELU": nn.CELU(0.7), "Softplus": nn.Softplus(),
    "LogSigmoid": nn.LogSigmoid(), "Softplus of another steepness": nn.Softplus(2.0), "Softsign": nn.Softsign(),
    "Tanhshrink": nn.Tanhshrink(), "Softshrink": nn.Softshrink(0.3), "RReLU": nn.RReLU(),
    "Threshold": nn.Threshold(0.2, 0.2), "GLU": nn.GLU(1), "Softmax2d": nn.Softmax2d(),
    "clamp_min": lambda x: x.clamp_min(0.1), "clamp_max": lambda x: torch.clamp_max(x, 0.1), "exp": torch.exp,
    "log": lambda x: positive(x).log(), "sqrt": lambda x: torch.sqrt(positive(x)),
    "rsqrt": lambda x: positive(x).rsqrt(), "abs": abs, "reciprocal": lambda x: positive(x).reciprocal(),
    "a number by a tensor": lambda x: 2.0 / positive(x), "rsub": lambda x: torch.rsub(x, 1.5),
    "pow 1": lambda x: x.pow(1), "pow 3": lambda x: x**3, "pow 4": lambda x: torch.pow(x, 4),
    "pow -1": lambda x: positive(x) ** -1, "pow 0.5": lambda x: positive(x) ** 0.5,
    "pow 1.7": lambda x: positive(x) ** 1.7, "pow -2.5": lambda x: positive(x).pow(-2.5),
    "maximum": lambda x: torch.maximum(x, x * 0.5), "max of two": lambda x: torch.max(x, x * 0.5),
    "minimum of a constant": lambda x: torch.minimum(x, torch.tensor(0.3)),
    "maximum of constants": lambda x: torch.maximum(x, torch.linspace(-1, 1, CHANNELS).reshape(-1, 1, 1)),
    "max": lambda x: x.max(1)[0], "max's values": lambda x: x.max(dim=-1, keepdim=True).values,
    "min": lambda x: torch.min(x, 2)[0], "amin": lambda x: x.amin((1, 2)), "amax": lambda x: torch.amax(x, (2, 3)),
    "CBAM": cbam, "generalised mean": GeneralisedMean(), "response norm": response_norm, "var": lambda x: x.var(1),
    "var of all": lambda x: torch.var(x, dim=(2, 3), unbiased=False, keepdim=True),
    "std": lambda x: x / (x.std(dim=(2, 3), keepdim=True) + 1), "normalize": lambda x: F.normalize(x, dim=1),
    "var's correction": lambda x: x.var(dim=1, correction=0),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=1), "logsumexp": lambda x: torch.logsumexp(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1), "LogSoftmax": nn.LogSoftmax(1),
    "LocalResponseNorm": nn.LocalResponseNorm(5, alpha=0.1), "even LocalResponseNorm": nn.LocalResponseNorm(4, k=2.0),
    "instance_norm": lambda x: F.instance_norm(x), "LayerNorm of images": nn.LayerNorm((CHANNELS, SIZE, SIZE)),
    "LayerNorm of rows and columns": nn.LayerNorm((SIZE, SIZE)),
    "LayerNorm without weights": nn.LayerNorm((SIZE, SIZE), elementwise_affine=False),
    "swapaxes": lambda x: x.swapaxes(2, 3) * 2.0, "mT": lambda x: x.mT * 2.0,
    "movedim": lambda x: x.movedim(1, -1).movedim(-1, 2), "movedims": lambda x: torch.movedim(x, (2, 3), (1, 2)),
    "type": lambda x: x.type(torch.float32), "PixelShuffle": nn.PixelShuffle(2),
    "PixelUnshuffle": nn.PixelUnshuffle(3), "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "interpolate to a size": lambda x: F.interpolate(x, (12, 18)),
    "interpolate to the same": lambda x: F.interpolate(x, (SIZE, SIZE), mode="bilinear"),
    "Upsample": nn.Upsample(scale_factor=(1, 2)), "stack": lambda x: torch.stack([x, x * 2.0], dim=1).sum(1),
    "repeat": lambda x: x.repeat(1, 2, 1, 3), "every other channel": lambda x: x[:, 1:7:2],
    "every third of features": lambda x: x.flatten(1)[:, ::3], "non-local": non_local,
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2.0, x, scale=0.1),
    "shrunk": lambda x: F.interpolate(x, scale_factor=0.5), "view_as": lambda x: x.flatten(1).view_as(x),
    "Softmin": nn.Softmin(1), "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "roll all the way": lambda x: x.roll(SIZE, 2), "data": lambda x: x.data * 2.0,
    "cropped": lambda x: F.pad(x, (-1, 2, 0, -3)), "ReflectionPad2d": nn.ReflectionPad2d(2),
    "ReplicationPad2d": nn.ReplicationPad2d((1, 0, 2, 1)), "circular": lambda x: F.pad(x, (1, 2, 0, 1), "circular"),
    "reflect": nn.Conv2d(CHANNELS, 4, 3, 2, 1, padding_mode="reflect"),
    "module made in forward": lambda x: nn.AvgPool2d(2)(nn.ReLU()(x)),
    "new_zeros": lambda x: torch.cat([x, x.new_zeros(x.size(0), 3, SIZE, SIZE)], 1),
    "torch.zeros": lambda x: torch.cat([torch.zeros(x.shape[0], 2, *x.shape[2:], device=x.device), x], 1),
    "elsewhere": lambda x: x.cuda() if x.is_cuda else x * 2.0,
    "torch.full": lambda x: torch.cat([torch.full((x.shape[0], 1, SIZE, SIZE), 2.0), x], 1),
    "torch.ones": lambda x: x + torch.ones((x.shape[0], 1, 1, SIZE)), "unbind": one_of, "pow 5": lambda x: x**5,
    "pow 13": lambda x: x.pow(13), "pow 100": lambda x: (x * 0.5).clamp(-1.1, 1.1) ** 100,
    "pow 0": lambda x: x**0 + x, "pow -3": lambda x: (x + 9.0) ** -3, "softmax of images": lambda x: F.softmax(x),
    "Softmax without a dimension": nn.Softmax(), "softmin": lambda x: F.softmin(x),
    "log_softmax of images": lambda x: F.log_softmax(x), "log of a softmax": lambda x: (x * 10.0).softmax(1).log(),
    "group_norm with weights only": lambda x: F.group_norm(x, 2, weight=torch.full((CHANNELS,), 2.0)),
    "group_norm with biases only": lambda x: F.group_norm(x, 2, bias=torch.full((CHANNELS,), 2.0)),
    "group_norm of rows": lambda x: F.group_norm(x.flatten(2), 2),
    "instance_norm with biases": lambda x: F.instance_norm(x, bias=torch.ones(CHANNELS)),
    "var by another number": lambda x: x.var(1, correction=1.5),
    "vector_norm's ord": lambda x: torch.linalg.vector_norm(x, ord=2, dim=1), "axis": lambda x: x.sum(axis=1),
    "mat2": lambda x: torch.bmm(x.flatten(2), mat2=x.flatten(2).transpose(1, 2)),
    "tile": lambda x: torch.tile(x, (2, 1)), "tile dims": lambda x: torch.tile(x, dims=(1, 2, 1, 1)),
    "stack of a constant": lambda x: torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1),
    "ones_like elsewhere": lambda x: x + torch.ones_like(x, memory_format=torch.channels_last),
    "cat of nothing": lambda x: torch.cat([x, torch.tensor([])], 1),
    "tuples joined": lambda x: torch.cat(operator.add(x.chunk(2, 1), (x,)), 1),
    "narrow from the end": lambda x: x.narrow(1, -3, 2),
    "constants reshaped": lambda x: x.flatten(1) + torch.ones_like(x).view(x.shape[0], -1),
    "zeros reshaped": lambda x: x.flatten(1) + torch.zeros(x.shape[0], CHANNELS, SIZE, SIZE).view(x.shape[0], -1),
    "full's size": lambda x: x + torch.full(size=(x.shape[0], CHANNELS, SIZE, SIZE), fill_value=1.0),
    "zeros' size": lambda x: x + torch.zeros(size=x.shape), "clone, then in place": lambda x: cloned(x),
    "pow 1, then in place": lambda x: x + x.pow(1).relu_() * 2.0, "square_": lambda x: (x * 2.0).square_(),
    "cat of one, then in place": lambda x: x + torch.cat([x], 1).mul_(3.0), "clip_": lambda x: (x * 2.0).clip_(-1, 1),
    "leaky_relu_": lambda x: F.leaky_relu_(x * 2.0, 0.2),
    "zeros_like": lambda x: x + torch.ones_like(x) + torch.zeros_like(x),
    "channels padded": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
    "padded all around": lambda x: F.pad(x, (1, 0, 0, 2, 3, 0), value=0.5),
    "channels of zero joined": lambda x: torch.cat([x, torch.zeros_like(x)], 1),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear to corners": nn.UpsamplingBilinear2d((9, 7)), "nearest by 6 to 4": lambda x: F.interpolate(x, 4),
    "bicubic": lambda x: F.interpolate(x, (6, 4), mode="bicubic", antialias=True),
    "nearest by 3 to 5": lambda x: F.interpolate(x[:, :, :3], (5, 6)),
    "area": lambda x: F.interpolate(x, 4, mode="area"),
    "nearest-exact": lambda x: F.interpolate(x, (9, 5), mode="nearest-exact"),
    "grown by weights": grown, "constants joined": Constants(), "windows": windows,
    "heads": heads, "one head of keys": one_head_of_keys, "masks": masks, "heads by einsum": heads_by_einsum,
    "tokens of all images": all_tokens, "mean of a stack": mean_of_stack,
    "mirrored": lambda x: torch.flip(x, (2, 3)) + torch.flip(x, dims=[3]) + x.flip(dims=(1, -1)),
    "permuted by name": lambda x: torch.permute(x, dims=(0, 3, 1, 2)),
    "places, then in place": lambda x: x[:, list(range(8))].add_(1.0) + x,
    "no mirror, then in place": lambda x: x + x[:, :1].flip(1).mul_(2.0) + x[:, :1],
    "repeated once, then in place": lambda x: x.repeat_interleave(1, 1).add_(1.0) + x,
    "like a shuffle": lambda x: x.view(-1, 8, 6, 3, 2).permute(0, 2, 1, 3, 4).reshape(-1, 8, 6, 6),
    "zeros stacked": lambda x: torch.stack([torch.zeros_like(x), x], 1),
    "parts like images": lambda x: x.view(-1, 4, 6, 6).amax((2, 3)).view(x.shape[0], 8) + x.view(-1, 1, 6, 6)[
        :, :, ::2].reshape(x.shape[0], 8, -1).mean(2),
    "greatest of a stack": lambda x: torch.stack([x, x * 2.0, x - 1.0]).max(dim=0)[0],
    "a size computed again": nn.Upsample(scale_factor=1.4, mode="bilinear", recompute_scale_factor=True),
    "constants of the batch's size": lambda x: x + torch.broadcast_to(torch.ones(1, 8, 1, 1), (x.shape[0], 8, 6, 6)),
 "channels turned round": lambda x: x.flip(1)[:, [2, 1, 0]],
    "places": lambda x: x[:, :, torch.tensor([5, 0, 1, 2, 4])],
    "places by truth": lambda x: x[..., torch.arange(6) > 2],
    "many places": lambda x: x.repeat(1, 4, 1, 1).index_select(1, torch.arange(32).view(8, 4).t().flatten()),
    "every third channel": lambda x: x[:, 1::3], "every ninth channel": lambda x: x[:, 3::9],
    "interleaved": lambda x: x.repeat_interleave(3, 1) + torch.repeat_interleave(x, 3, dim=1),
    "images of parts": lambda x: x[:, 0].repeat_interleave(4, 0).mul(2.0).view(x.shape[0], 4, SIZE, SIZE),
    "addcmul": lambda x: torch.addcmul(x, x, torch.full((1, CHANNELS, 1, 1), 2.0), value=0.5),
    "addcmul of constants": lambda x: x.addcmul(torch.ones(1), torch.full((1,), 3.0)),
    "addcdiv": lambda x: torch.addcdiv(torch.ones(CHANNELS, 1, 1), x, positive(x)),
    "expanded": lambda x: x.mean((2, 3), True).expand_as(x).relu() + x[:, :1].expand(-1, CHANNELS, -1, -1).relu(),
    "rows padded": lambda x: F.pad(F.pad(x.flatten(2), (1, 2)), (0, 1, 1, 0), value=2.0),
    "rows padded by themselves": lambda x: F.pad(x.flatten(2), (3, 1), "reflect"),
    "numbers padded": lambda x: F.pad(x.flatten(1), (0, 5)), "a matrix from the left": lambda x: FROM_THE_LEFT @ x,
    "parts padded": lambda x: F.pad(x.flatten(0, 1), (1, 0, 0, 2)).view(x.shape[0], CHANNELS, SIZE + 2, SIZE + 1),
    "pools of rows": lambda x: F.avg_pool1d(F.max_pool1d(x.flatten(2), 3, 2, 1), 2),
    "adaptive pools of rows": nn.Sequential(nn.Flatten(2), nn.AdaptiveMaxPool1d(9), nn.AdaptiveAvgPool1d((4,))),
    "pool modules of rows": nn.Sequential(nn.Flatten(2), nn.MaxPool1d(3), nn.AvgPool1d(2, 2, 0)),
    "channels of one on both sides": lambda x: torch.cat([torch.ones_like(x), x, x, torch.ones_like(x)], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLES)
def test_the_same_is_computed(name: str) -> None:
    torch.manual_seed(0)
    check_pass(traced(Around(MIDDLES[name])), EvaluationForm(), Canonicalise())


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "threshold": (nn.Threshold(0.1, 0.0), "what is under 0.1 becomes 0.0"),
    "exponents": (lambda x: x ** torch.tensor([2.0] * SIZE), "an exponent computed from the image, or one for each"),
    "exponent": (lambda x: 2**x, "an exponent computed from the image"),
    "norm": (lambda x: x.norm(1, 1), "the norm 1; only 2"),
    "padded rows": (
        nn.Sequential(nn.Flatten(2), nn.Conv1d(CHANNELS, 4, 3, padding=1, padding_mode="reflect")), "padding mode"),
    "a low threshold": (nn.Softplus(1, 0.5), "a threshold of 0.5, which is seen"),
    "3.1 times": (lambda x: F.interpolate(x, scale_factor=3.1), "that is not a whole number of pixels"),
    "variance of one": (lambda x: x[:, :1].var(1).nan_to_num(), "the variance of 1 numbers"),
    "no image": (lambda x: F.interpolate(x.flatten(2), scale_factor=2), "which is no image"),
    "constants of the batch": (lambda x: x + torch.zeros(x.shape[0] * 2, 1, 1, 1)[:1], "a size that has the batch"),
    "new constants of the batch": (lambda x: x + x.new_ones(x.shape[0] * 2, 1, 1, 1)[:1], "a size that has the batch"),
    "a rule that fails": (lambda x: x.roll(1, ()), "called in a form that cannot be compiled"),
    "rolled batch": (lambda x: torch.roll(x, 1), "rolls the batch, too"),
    "stack": (lambda x: torch.stack([x, x]).relu().sum(0), "moves the batch"),
    "stack, kept": (lambda x: torch.stack([x, x]).sum(0, keepdim=True)[0], "moves the batch"),
    "stack, a new dimension": (lambda x: torch.stack([x, x])[:, None].sum(0), "a new dimension before the batch"),
    "batch of a moved one": (lambda x: torch.stack([x, x])[0][0:1], "works across the batch"),
    "two indices": (lambda x: x[:, [0, 1], [0, 1]], "into several dimensions at once"),
    "an index of two dimensions": (lambda x: x[:, torch.eye(2).long()], "only numbers, slices and known places"),
    "no place": (lambda x: torch.cat([x, x[:, torch.zeros(0).long()]], 1), "an empty index"),
    "places of the batch": (lambda x: x.flip(0), "works across the batch"),
    "repeats that differ": (lambda x: x.repeat_interleave(torch.arange(8), 1), "other than one number of times"),
    "a step back": (lambda x: torch.cat([x, x[:, 1:1:2]], 1), "an empty slice"),
    "einsum of three": (lambda x: torch.einsum("nchw,nchw,nchw->nc", x, x, x), "only of two tensors"),
    "einsum of what is summed": (lambda x: torch.einsum("nchw,nc->nc", x, x.mean((2, 3))), "sum it before"),
    "einsum without a batch": (lambda x: torch.einsum("nchw,nc->chw", x, x.mean((2, 3)))[None], "batch must be first"),
    "einsum by heads": (lambda x: torch.einsum("nchw,cw->nch", x, torch.ones(8, 6)), "the batch must be first"),
    "a mask with an empty row": (
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.arange(6)[:, None].expand(6, 6) > 2), "a row nothing"),
    "channels padded by themselves": (
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate"), "height and width by the image itself"),
    "moved ones compared": (lambda x: torch.max(torch.stack([x, x]), torch.stack([x, x]))[0], "moves the batch"),
    "a mask of the past": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "that is causal"),
    "repeated batch": (lambda x: x.repeat(1, 1, 1, 1, 1), "repeats the batch, or adds dimensions"),
    "joined constants": (lambda x: torch.cat([x, torch.eye(6)[None, None], x], 1), "between two tensors"),
    "padded batch": (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[1:], "pads other than channels, height and width"),
    "random slopes": (lambda x: F.rrelu(x, 0.3, 0.3, training=True), "random slopes"),
    "places": (lambda x: x.max(1, keepdim=True)[1].float(), "float"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    middle, said = REFUSED[name]
    with pytest.raises(PassError, match=said):
        run(traced(Around(middle)), (EvaluationForm(), Canonicalise()))


def test_parts_are_no_images() -> None:
    """Rows of tokens, (N, rows, tokens, channels) in the graph, are no place for an exit."""

    def rows(x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1).reshape(-1, SIZE, CHANNELS).relu()
        return tokens.view(-1, SIZE, SIZE, CHANNELS).permute(0, 3, 1, 2) * 2.0

    program = run(traced(Around(rows)), analysis_pipeline())
    assert [cut.shape for cut in program.cuts] == [(CHANNELS, SIZE, SIZE)] * len(program.cuts)
    assert {cut.node for cut in program.cuts} & {"relu", "mul"} == {"mul"}
