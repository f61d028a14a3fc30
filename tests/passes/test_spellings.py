"""Operations as people write them: canonicalised they compute what they did. ops themselves: tests/test_kernels.py."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.errors import PassError
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
    "channels of one on both sides": lambda x: torch.cat([torch.ones_like(x), x, x, torch.ones_like(x)], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLES)
def test_the_same_is_computed(name: str) -> None:
    check_pass(traced(Around(MIDDLES[name])), EvaluationForm(), Canonicalise())


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "threshold": (nn.Threshold(0.1, 0.0), "what is under 0.1 becomes 0.0"),
    "exponents": (lambda x: x ** torch.tensor([2.0] * SIZE), "an exponent computed from the image, or one for each"),
    "exponent": (lambda x: 2**x, "an exponent computed from the image"),
    "norm": (lambda x: x.norm(1, 1), "the norm 1; only 2"),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), "only whole factors by 'nearest'"),
    "shrunk": (lambda x: F.interpolate(x, 4), r"from \(6, 6\) to \(4, 4\) by 'nearest'"),
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
    "stack": (lambda x: torch.stack([x, x]).sum(0), "works across the batch"),
    "repeated batch": (lambda x: x.repeat(1, 1, 1, 1, 1), "repeats the batch, or adds dimensions"),
    "joined constants": (lambda x: torch.cat([x, torch.eye(6)[None, None]], 1), "other than channels of one number"),
    "padded batch": (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[1:], "pads other than channels, height and width"),
    "random slopes": (lambda x: F.rrelu(x, 0.3, 0.3, training=True), "random slopes"),
    "places": (lambda x: x.max(1, keepdim=True)[1].float(), "float"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    middle, said = REFUSED[name]
    with pytest.raises(PassError, match=said):
        run(traced(Around(middle)), (EvaluationForm(), Canonicalise()))
