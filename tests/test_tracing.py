"""Messages that name the model's line, the reason and the usual mend; and what torch.fx alone would get wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile.driver import insert_exits
from perse_compile.errors import ModelError, PassError, VerifyError
from perse_compile.passes import analysis_pipeline
from perse_compile.pipeline import run
from perse_compile.trace import trace_model
from tests import models
from tests.helpers import check_pass, logits, traced


class Body(nn.Module):
    """A convolution, something in between, a classifier."""

    input_size = 8

    def __init__(self, body: Any = None, **layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)
        self.layers = nn.ModuleDict(layers)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self, self.conv(x)).mean((2, 3)))


def halved(m: Body, x: Tensor) -> Tensor:
    if x.shape[0] > 4:
        x = F.max_pool2d(x, 2)
    return x


def asserted(m: Body, x: Tensor) -> Tensor:
    assert x.shape[0] == 1
    return x


def looped(m: Body, x: Tensor) -> Tensor:
    for _ in range(x.shape[0]):
        x = x * 2
    return x


def iterated(m: Body, x: Tensor) -> Tensor:
    return torch.stack([image * 2 for image in x])


def assigned(m: Body, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


UNTRACEABLE = {
    halved: ("`if x.shape[0] > 4:`", "a decision by a size that tracing does not know; if it is the batch's"),
    asserted: ("`assert x.shape[0] == 1`", "an assert on what tracing does not know; delete it"),
    looped: ("`for _ in range(x.shape[0]):`", "a count that tracing does not know; write the number"),
    iterated: ("`return torch.stack(", "a loop over the parts of a tensor; take a fixed number"),
    assigned: ("`x[:, 0] = 0`", "an assignment into a tensor; make a new one"),
    lambda m, x: x * len(x): ("", "len() of a tensor; write x.shape[0]"),
    lambda m, x: x * float(x.sum()): ("", "a number taken out of a tensor; leave it a tensor"),
    lambda m, x: np.sqrt(x): ("", "a numpy function on a tensor; use the one of torch"),
    lambda m, x: x + torch.empty(x.shape[0], 4, 8, 8): ("", "a tensor made in forward; make it in __init__"),
    lambda m, x: m.nothing(x): ("", "no attribute 'nothing'; does it run in PyTorch?"),
}


@pytest.mark.parametrize("body", UNTRACEABLE)
def test_a_line_that_cannot_be_traced(body: Any) -> None:
    line, message = UNTRACEABLE[body]
    with pytest.raises(ModelError) as error:
        traced(Body(body))
    assert re.search(r"^cannot trace net: .*test_tracing\.py:\d+ `", str(error.value))
    assert line in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def padded_to_even(m: Body, x: Tensor) -> Tensor:
    height, width = x.size()[-2:]
    if height % 3 or width % 3:
        x = F.pad(x, (0, -width % 3, 0, -height % 3))
    assert x.shape[1] == 4 and x.dim() == 4 and x.ndim == 4
    return x


def shortcut(m: Body, x: Tensor) -> Tensor:
    half = F.max_pool2d(x, 2)
    if half.shape != x.shape:
        half = F.interpolate(half, size=x.shape[2:])
    assert half.shape == x.shape
    return half + x


def by_parts(m: Body, x: Tensor) -> Tensor:
    total = sum(part * (i + 1) for i, part in enumerate(x.chunk(2, 1)))
    for i in range(x.size(1) // 2):
        total = total + x[:, i : i + 1] / x.size(-1)
    batch, channels, height, width = total.shape
    return m.layers["wide"](total.reshape(batch, channels // 2, height * 2, width))


def flattened(m: Body, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    each = x.reshape(n * c, 1, h, w)
    return each.view(n, c, h, w)


def asked(m: Body, x: Tensor) -> Tensor:
    assert x.dtype == torch.float32 and x.is_floating_point() and not x.requires_grad and not x.is_cuda
    assert x.shape[1:].numel() == 256 and x.size()[2:].numel() == 64 and x[:, :0].shape[1] == 0
    first, *others = x.chunk(4, 1)
    assert len(x.chunk(4, 1)) == 4 and len(others) == 3
    zeros = torch.cat([torch.zeros(x.shape[0], 1, 8, 8), first], 1)
    if zeros.shape[1] == 2:
        x = torch.cat([zeros, x[:, 2:]], 1)
    return x.reshape(-1, x.numel() // x.size(0)).view(x.shape)


def through_a_hook(m: Body, x: Tensor) -> Tensor:
    x = m.layers["hooked"](x)
    return x * 2 if x.shape[2] == 8 else x


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("body", [padded_to_even, shortcut, by_parts, flattened, asked, through_a_hook])
def test_sizes_are_known(body: Any) -> None:
    hooked, seen = nn.utils.weight_norm(nn.Conv2d(4, 4, 1)), list[str]()
    network = Body(body, wide=nn.Conv2d(1, 4, 1), hooked=hooked)
    hooked.register_forward_hook(lambda m, given, made: seen.append(made.device.type))
    program = traced(network)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), network(x))  # for any batch
    assert set(seen) <= {"cpu"} and torch.zeros(2).tolist() == [0, 0]  # nothing is left behind
    check_pass(program, *analysis_pipeline())


UNKNOWN = {
    "decisions by pixel are not compiled": lambda m, x: torch.where(x > 0, x, x * 2),
    "leave it a tensor": lambda m, x: x * x.mean((2, 3)).item(),
    "random numbers belong to training": lambda m, x: x + torch.randn_like(x),
    "only convolutional classifiers are compiled": lambda m, x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2])[:, None],
    "only 2D images are compiled": lambda m, x: m.layers["one"](x[:, :, None]),
    "write it with those in `perse_compile/ops.py`": lambda m, x: torch.erf(x),
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_an_operation_that_is_not_compiled(message: str) -> None:
    network = Body(UNKNOWN[message], one=nn.AvgPool3d((1, 2, 2)))
    program = traced(models.Plain())
    program.module = torch.fx.GraphModule(network, torch.fx.Tracer().trace(network))
    with pytest.raises(PassError, match=rf"no operation for this; {re.escape(message)}"):
        run(program, analysis_pipeline())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_the_factory_returns_must_be_a_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for network, message in (
        (nn.ModuleList([nn.Conv2d(3, 4, 1)]), "it has no forward; let the factory return the whole network"),
        (torch.jit.trace(models.Plain().eval(), torch.zeros(1, 3, 16, 16)), "a scripted module; give the module"),
        (nn.Bilinear(3, 3, 2), "takes input2 beside the image; wrap it so that it takes the image only"),
    ):
        monkeypatch.setattr(models, "plain", lambda network=network: network)
        with pytest.raises(ModelError, match=message):
            trace_model("tests.models:plain")


def test_what_forward_takes_beside_the_image_has_its_default() -> None:
    class Optional(Body):
        def forward(self, x: Tensor, scale: float = 3.0, features: bool = False) -> Any:
            x = self.conv(x)
            return x if features else self.fc(x.mean((2, 3))) * scale

    network = Optional()
    program = traced(network)
    assert type(network).__name__ == "Optional" and program.module.graph.find_nodes(op="placeholder", target="image")
    assert logits(program).shape == (2, 2)


class Aliased(Body):
    """Other names of what is changed in place see the change."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        before = x
        x += 1
        x -= before * 0.25
        x *= 2
        x /= 3
        return self.fc((x + before).mean((2, 3)))


def test_changes_in_place_are_seen_under_every_name() -> None:
    network = Aliased()
    program = traced(network)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(program.module(x.clone()), expected)
        run(program, analysis_pipeline())
        torch.testing.assert_close(program.module(x), expected)
    assert [n.name for n in program.module.graph.nodes if n.op == "call_function"][1:5] == [
        "add",
        "mul",
        "sub",
        "mul_1",
    ]


def test_a_forward_that_does_not_repeat_itself_is_refused() -> None:
    class Counting(Body):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.fc(self.conv(x).mean((2, 3))) * self.calls

    with pytest.raises(ModelError, match="net computes something else when traced; it must be the same function"):
        traced(Counting())


def test_weights_that_answer_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.Plain()
    with torch.no_grad():
        network.fc.weight[0, 0] = torch.nan
    monkeypatch.setattr(models, "plain", lambda: network)
    with pytest.raises(VerifyError, match="plain answers NaN or infinity to a noisy image; are its weights whole"):
        insert_exits("tests.models:plain")


def test_modules_called_like_words_of_python() -> None:
    class Words(Body):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers.values():
                x = layer(x)
            return self.fc(self.conv(x).mean((2, 3)))

    network = Words(**{"lambda": nn.Conv2d(3, 3, 1), "class": nn.BatchNorm2d(3)})
    x = torch.randn(2, 3, 8, 8)
    program = traced(network)
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), network(x))
    assert "layers.lambda_.weight" in program.tensors()
    with pytest.raises(ModelError, match=r"two parts of the network would be called layers\.class_; rename one"):
        traced(Words(**{"class": nn.Conv2d(3, 3, 1), "class_": nn.Conv2d(3, 3, 1)}))


def test_a_buffer_called_mean_is_no_normalisation() -> None:
    network = Body(lambda m, x: x - m.mean)
    network.register_buffer("mean", torch.ones(1, 4, 1, 1))
    assert traced(network).input.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("layer", "uses"),
    [
        (nn.GroupNorm(2, 4), "layer_norm"),
        (nn.GroupNorm(4, 4, affine=False), "layer_norm"),
        (nn.InstanceNorm2d(4, affine=True), "layer_norm"),
        (nn.InstanceNorm2d(4, track_running_stats=True), "affine"),
    ],
)
def test_norms_by_groups(layer: nn.Module, uses: str) -> None:
    network = Body(lambda m, x: m.layers["norm"](torch.relu(x)), norm=layer)
    program = run(traced(network), analysis_pipeline())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), network(x), rtol=1e-4, atol=1e-5)
    assert uses in [node.target.__name__ for node in program.module.graph.nodes if node.op == "call_function"]
