"""From names and files to traced programs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from perse_compile import input_spec, trace, weights
from perse_compile.driver import insert_exits
from perse_compile.errors import ModelError, VerifyError
from perse_compile.passes import default_pipeline
from perse_compile.pipeline import run
from perse_compile.program import Program
from perse_compile.same_function import SameFunction
from perse_compile.trace import trace_model
from perse_compile.verify import verify
from tests import models
from tests.helpers import randomise, traced

NETWORKS = {
    "alexnet": 64, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64,
    "googlenet": 64, "inception_v3": 75, "mnasnet0_5": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64, "regnet_y_400mf": 64, "resnet18": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64, "vgg11": 32, "vgg11_bn": 32, "wide_resnet50_2": 64,
}  # fmt: skip
HEAVY = ("alexnet", "vgg11", "vgg11_bn", "wide_resnet50_2")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "unreachable", lambda url: "offline")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Images this small are not worth waiting for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NETWORKS)
def test_one_of_each_family_computes_the_same_and_survives_its_file(name: str, tmp_path: Path) -> None:
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    eager = torchvision.models.get_model(name, weights=None, num_classes=7, **options).eval()
    size = NETWORKS[name]
    program = trace_model(name, "none", 7, (size, size))
    randomise(eager)
    program.module.load_state_dict(eager.state_dict(), strict=False)
    run(program, default_pipeline(3))
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = eager(x), program.module(x)
    assert len(found) == len(program.exits) == 4
    torch.testing.assert_close(found[-1], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    verify(program)
    if name in HEAVY:  # through a file in `make coverage` only
        return
    program.save(tmp_path / "it.perse")
    loaded = Program.load(tmp_path / "it.perse")
    verify(loaded)
    assert (loaded.exits, loaded.stages, loaded.cuts) == (program.exits, program.stages, program.cuts)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded.module(x), found, strict=True))
    with safe_open(tmp_path / "it.perse", "numpy") as file:  # what others read of it
        assert set(file.keys()) == set(loaded.tensors())
        for exit in program.exits:
            np.testing.assert_array_equal(file.get_tensor(f"{exit.name}.weight"), program.tensor(f"{exit.name}.weight"))


def test_random_weights_are_warned_of_and_are_the_same_each_time() -> None:
    program = trace_model("mobilenet_v3_small")
    assert program.provenance["warnings"][0].startswith(
        "random weights: the pretrained ones of mobilenet_v3_small could not be had"
    )
    assert program.provenance["weights"] == {"source": "random", "seed": 0}
    assert program.input.mean == input_spec.IMAGENET_MEAN
    assert program.classes[:2] == ["class0", "class1"]
    again = trace_model("mobilenet_v3_small", "none")
    assert all(torch.equal(t, again.tensors()[n]) for n, t in program.tensors().items())
    assert again.provenance["warnings"] == []


def test_size_and_normalisation_are_those_of_the_weights() -> None:
    assert (
        trace_model("inception_v3", "none").input.height,
        trace_model("squeezenet1_1", "none", input_size=(64, 48)).input.width,
    ) == (299, 48)


def test_pretrained_weights_from_the_cache(tmp_path: Path) -> None:
    meta = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT
    state = torchvision.models.squeezenet1_1().state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "checkpoints" / Path(meta.url).name)
    original = torch.hub.load_state_dict_from_url
    torch.hub.load_state_dict_from_url = lambda url, **options: original(
        url, **{**options, "model_dir": str(tmp_path / "hub" / "checkpoints")}
    )
    try:
        program = trace_model("squeezenet1_1", "default", input_size=(64, 64))
        retrain = trace_model("squeezenet1_1", "auto", 3, input_size=(64, 64))
    finally:
        torch.hub.load_state_dict_from_url = original
    assert program.classes[0] == "tench"
    assert program.provenance["weights"] == {"source": "pretrained", "name": meta.name}
    assert torch.equal(program.tensor("features.0.weight"), state["features.0.weight"])
    assert torch.equal(retrain.tensor("features.0.weight"), state["features.0.weight"])
    assert "classifier of squeezenet1_1 is new and random" in retrain.provenance["warnings"][0]


def test_a_download_that_breaks_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "unreachable", lambda url: None)
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda *a, **k: (_ for _ in ()).throw(OSError("broken pipe"))
    )
    assert "OSError" in trace_model("squeezenet1_1", input_size=(64, 64)).provenance["warnings"][0]


def test_default_weights_that_cannot_be_had() -> None:
    with pytest.raises(ModelError, match=r"pretrained weights of resnet18 cannot be had \(offline\); go online once"):
        trace_model("resnet18", "default")


def test_asking_for_a_url_offline_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *a, **k: time.sleep(1) or io.BytesIO())
    assert weights.unreachable("https://example.invalid/x") == "offline"
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *a, **k: (_ for _ in ()).throw(TimeoutError()))
    assert weights.unreachable("https://example.invalid/x") == "TimeoutError"
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *a, **k: io.BytesIO())
    assert weights.unreachable("https://example.invalid/x") is None


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pth", "wrapped", "safetensors", "half"])
def test_weights_from_a_file_with_its_number_of_classes(kind: str, tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v3_small(num_classes=4).state_dict()
    path = tmp_path / ("w.safetensors" if kind in ("safetensors", "half") else "w.pth")
    if kind == "half":
        state = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    if kind == "pth":
        torch.save(state, path)
    elif kind == "wrapped":
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, path)
    else:
        save_file(state, path)
    program = trace_model("mobilenet_v3_small", str(path), input_size=(64, 64))
    assert program.classes == ["class0", "class1", "class2", "class3"]
    assert torch.equal(program.tensor("classifier.3.weight"), state["classifier.3.weight"].float())
    assert program.provenance["weights"]["name"] == path.name


def test_a_file_named_like_torchvisions_is_of_torchvision(tmp_path: Path) -> None:
    path = tmp_path / Path(torchvision.models.get_model_weights("googlenet").DEFAULT.url).name
    state = torchvision.models.googlenet(weights=None, init_weights=False).state_dict()
    torch.save(state, path)
    program = trace_model("googlenet", str(path), input_size=(64, 64))
    assert program.classes[0] == "tench"
    assert any("mul" in node.name for node in program.module.graph.nodes)  # transform_input
    run(program, default_pipeline())


def test_weights_of_another_model(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        ModelError,
        match=r"not of resnet50: missing: layer1\.0\.conv3\.weight, .* and \d+ more; .*of another shape: layer1",
    ):
        trace_model("resnet50", str(tmp_path / "w.pth"))
    with pytest.raises(ModelError, match=r"unexpected: conv1.weight"):
        trace_model("alexnet", str(tmp_path / "w.pth"))
    with pytest.raises(
        ModelError, match=r"not of resnet18: of another shape: fc\.weight \(1000, 512\) instead of \(5, 512\)"
    ):
        trace_model("resnet18", str(tmp_path / "w.pth"), 5)


class NotTensors:
    pass


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights file .*nothing\.pth; --weights takes auto"):
        trace_model("alexnet", str(tmp_path / "nothing.pth"))
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(ModelError, match=rf"{name}"):
            trace_model("alexnet", str(tmp_path / name))
    torch.save(NotTensors(), tmp_path / "object.pth")
    with pytest.raises(ModelError, match=r"holds more than tensors; save it with torch\.save\(model\.state_dict"):
        trace_model("alexnet", str(tmp_path / "object.pth"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="is not a state dict"):
        trace_model("alexnet", str(tmp_path / "list.pth"))


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet5", r"unknown model 'resnet5'; did you mean resnet50"),
        ("zzzz", r"unknown model 'zzzz'; `perse-compile models`"),
        ("vit_b_16", "not a convolutional network"),
        ("no_such_module:f", "no module named 'no_such_module'"),
        ("tests.models:plian", r"has no function 'plian'; did you mean .*plain"),
        ("tests.models:not_a_module", "returned a int; it must return a torch.nn.Module"),
        ("tests.models:failing", r"failed at .*tests/models\.py:\d+ `raise RuntimeError.*no such luck"),
        (
            "tests.models:branching",
            r"cannot trace .*tests/models\.py:\d+ `if x\.sum\(\) > 0:`: a decision by the image .*; take the decision",
        ),
    ],
)
def test_models_that_cannot_be_traced(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace_model(model)


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_zoo.py").write_text("1 / 0\n")
    (tmp_path / "broken_syntax.py").write_text("def :\n")
    with pytest.raises(
        ModelError, match=r"importing broken_zoo failed at .*broken_zoo\.py:1 `1 / 0`: division by zero"
    ):
        trace_model("broken_zoo:f")
    with pytest.raises(ModelError, match=r"importing broken_syntax failed at .*broken_syntax\.py:1"):
        trace_model("broken_syntax:f")


def test_what_a_model_says_of_its_images() -> None:
    program = trace_model("tests.models:described")
    assert (program.input.channels, program.input.height, program.input.width) == (1, 10, 12)
    assert (program.input.mean, program.input.std, program.classes) == ((0.4,), (0.2,), ["cat", "dog"])
    assert program.name == "described"
    assert [e.name for e in run(program, default_pipeline()).exits] == ["final"]  # too small for more


def test_own_models_and_their_classes(tmp_path: Path) -> None:
    assert len(trace_model("tests.models:plain", num_classes=9).classes) == 9
    torch.save(models.plain(3).state_dict(), tmp_path / "w.pth")
    assert len(trace_model("tests.models:plain", str(tmp_path / "w.pth")).classes) == 3
    with pytest.raises(ModelError, match="takes no num_classes"):
        trace_model("tests.models:described", num_classes=3)


def test_factories_with_other_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`num_classes` may be among them, be taken and mean nothing, or be refused."""
    plain, weights = models.Plain, str(tmp_path / "w.pth")
    torch.save(plain(3).state_dict(), weights)
    monkeypatch.setattr(models, "plain", lambda **kwargs: plain(**kwargs))
    assert len(trace_model("tests.models:plain", num_classes=9).classes) == 9
    assert len(trace_model("tests.models:plain", weights).classes) == 3
    for factory in (lambda **kwargs: plain(4), lambda **kwargs: plain(4, **dict.fromkeys(kwargs and ["classes"]))):
        monkeypatch.setattr(models, "plain", factory)
        with pytest.raises(ModelError, match=r"whatever num_classes is|unexpected keyword argument 'classes'"):
            trace_model("tests.models:plain", num_classes=9)
    monkeypatch.setattr(models, "plain", lambda **kwargs: [plain, refusing][bool(kwargs)](**kwargs))
    with pytest.raises(ModelError, match="these weights are not of"):
        trace_model("tests.models:plain", weights)


def refusing(**kwargs: int) -> nn.Module:
    raise TypeError("unexpected keyword argument 'num_classes'")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("mean", (0.1, 0.2), "do not fit 1 channels"),
        ("std", (0.0,), "do not fit 1 channels"),
        ("class_names", ("a",), "1 class names and 2 outputs"),
        ("input_size", 0, "0x0 is not a size"),
        ("input_size", 2, "fails on a 1x2x2 image"),
        ("input_size", "8x8", "the model's input_size is '8x8'; it must be numbers"),
        ("mean", {"r": 0.5}, "the model's mean is {'r': 0.5}; it must be numbers"),
    ],
)
def test_what_a_model_says_must_be_right(
    attribute: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.Described, attribute, value)
    with pytest.raises(ModelError, match=message):
        trace_model("tests.models:described")


@pytest.mark.parametrize("of", [torch.tensor, np.array, lambda numbers: list(np.array(numbers, np.float32))])
def test_what_a_model_says_may_be_any_numbers(of: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, said in (("mean", [0.25]), ("std", [0.5]), ("input_size", [14.0, 16.0])):
        monkeypatch.setattr(models.Described, name, of(said))
    monkeypatch.setattr(models.Described, "class_names", {"a": 1, "b": 2}.keys())
    program = trace_model("tests.models:described")
    assert (program.input.mean, program.input.std, program.classes) == ((0.25,), (0.5,), ["a", "b"])
    assert (program.input.height, program.input.width) == (14, 16)


@pytest.mark.parametrize("function", [lambda m, x: (x, x), lambda m, x: x])
def test_what_a_model_returns_must_be_logits(function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "plain", lambda: models.Computes(function))
    with pytest.raises(ModelError, match="it must return one tensor of logits"):
        trace_model("tests.models:plain")


def test_other_channels_and_lists() -> None:
    assert input_spec.default(4, (1.0,), (2.0,), 0.5) == (0.5,) * 4
    names = trace.list_models()
    assert len(names) == 68
    assert "resnet50" in names
    assert not any(name.startswith("vit") for name in names)


def test_driver_saves_a_program_that_loads(tmp_path: Path) -> None:
    program = insert_exits("tests.models:plain", exits=1, output=tmp_path / "p.perse", dump=tmp_path / "dump")
    assert [e.name for e in Program.load(tmp_path / "p.perse").exits] == ["exit0", "final"]
    assert len(list((tmp_path / "dump").iterdir())) == len(program.passes)


class Unshuffled(nn.Module):
    """Its first convolution takes more channels than the image has."""

    input_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 3)
        self.last = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fc(self.norm(self.conv(F.pixel_unshuffle(x, 2))).mean((2, 3))))


def test_channels_of_an_image_that_is_made_into_more(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Unshuffled()  # in training mode, as factories return them
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    monkeypatch.setattr(models, "plain", lambda: network)
    assert trace_model("tests.models:plain").input.channels == 3
    for name, tensor in network.named_buffers():
        torch.testing.assert_close(tensor, before[name])


class OfTimm(Unshuffled):
    """Says of its images what timm's networks say, in `pretrained_cfg`; its `channels` are something else."""

    input_size = None

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(8, num_classes), nn.Identity()
        self.channels = [8, 3]
        self.pretrained_cfg = {"input_size": (3, 8, 12), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}


def of_timm(pretrained: bool = False, **kwargs: int) -> OfTimm:
    network = OfTimm(**kwargs)
    nn.init.constant_(network.fc.bias, 7.0 if pretrained else 0.0)
    return network


def test_a_network_of_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "plain", of_timm)
    program = trace_model("tests.models:plain")
    assert (program.input.channels, program.input.height, program.input.width) == (3, 8, 12)
    assert (program.input.mean, program.input.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert "made without its pretrained weights" in program.provenance["warnings"][0]
    for which, bias in (("default", 7.0), ("none", 0.0)):
        program = trace_model("tests.models:plain", which, num_classes=5)
        assert not program.provenance["warnings"] and program.tensor("fc.bias").tolist() == [bias] * 5
    torch.save(of_timm(True, num_classes=4).state_dict(), tmp_path / "w.pth")
    program = trace_model("tests.models:plain", str(tmp_path / "w.pth"))
    assert not program.provenance["warnings"] and program.tensor("fc.bias").tolist() == [7.0] * 4


class Remembering(Unshuffled):
    """Keeps what it has computed for later calls."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.kept = nn.Parameter(torch.ones(8, 1, 1)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.kept:
            self.kept["bias"] = self.bias * 2
        return self.fc(F.relu(self.conv(F.pixel_unshuffle(x, 2)) + self.kept["bias"]).mean((2, 3)))


def test_a_network_that_keeps_what_it_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Remembering()
    monkeypatch.setattr(models, "plain", lambda: network)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(run(trace_model("tests.models:plain"), default_pipeline()).module(x)[-1], network(x))
    assert type(network.kept["bias"]) is Tensor  # not a stand-in, left behind by tracing


class Averaging(Remembering):
    """What it says depends on the images before."""

    channels = 3

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pixel_unshuffle(x, 2)).mean((2, 3))
        self.kept["y"] = (y + self.kept["y"]) / 2 if "y" in self.kept else y
        return self.fc(self.kept["y"])


def test_a_network_with_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "plain", Averaging)
    with pytest.raises(ModelError, match="computes something else when traced; it must be the same function"):
        trace_model("tests.models:plain")


class Chaotic(Unshuffled):
    """Twice as far from the truth at every step."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.conv(F.pixel_unshuffle(x, 2))))
        for _ in range(30):
            x = 1 - 2 * x * x
        return self.fc(x.mean((2, 3)))


def test_a_network_that_rounding_changes() -> None:
    """No pass is to blame."""
    with pytest.raises(VerifyError, match=r"rounding to float32 alone changes its answer .* by \d+\.\d%"):
        run(traced(Chaotic()), default_pipeline(), [SameFunction()])
