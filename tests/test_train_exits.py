"""Exits trained on the host: heads learn, the backbone does not move, nothing is half-done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx
from torch.backends import cudnn

from perse_compile import ops
from perse_compile.driver import insert_exits
from perse_compile.errors import DataError, PassError
from perse_compile.personalise import features as of_backbone
from perse_compile.personalise.data import Images, read_images
from perse_compile.personalise.features import extract_features, normalise
from perse_compile.personalise.learning import PARTS, Head, standardise
from perse_compile.personalise.train_exits import ExitReport, read_head, split_images, train_exits
from perse_compile.program import Exit, InputSpec, Program, make_module

EXAMPLES = Path(__file__).parent.parent / "examples"
CLASSES = ["left", "right", "top", "bottom"]
SIZE = 16


def tiny_program() -> Program:
    """image -> conv0 -> (exit0) -> conv1 -> (exit1) -> conv2 -> (final), random weights."""
    generator = torch.Generator().manual_seed(0)
    graph, tensors = fx.Graph(), {}

    def tensor(name: str, value: Tensor) -> fx.Node:
        tensors[name] = value
        return graph.get_attr(name)

    def head(name: str, features: int, bright: float) -> fx.Node:
        weight = torch.randn(features, len(CLASSES), generator=generator) * bright
        values = torch.zeros(features), torch.ones(features), weight, torch.zeros(len(CLASSES))
        parts = [tensor(f"{name}.{part}", value) for part, value in zip(PARTS, values, strict=True)]
        pooled = graph.call_function(ops.pool_features, (x, 2))
        return graph.call_function(ops.head, (pooled, *parts))

    x, channels, logits, exits = graph.placeholder("x"), 3, [], []
    for position, name in enumerate(("exit0", "exit1", "final")):
        wider = 4 * (position + 1)
        weight = tensor(f"conv{position}.weight", torch.randn(wider, channels, 3, 3, generator=generator) * 0.3)
        x = graph.call_function(ops.conv2d, (x, weight, None, (1, 1), (1, 1), (1, 1), 1))
        x = graph.call_function(ops.relu, (x,))
        channels = wider
        logits.append(head(name, wider * 4, 0.1))
        exits.append(Exit(name, x.name, 2, wider * 4, 1000 * (position + 1), enabled=name == "final"))
    graph.output(tuple(logits))
    spec = InputSpec(SIZE, SIZE, 3, (0.5,) * 3, (0.25,) * 3)
    return Program("tiny", make_module(graph, tensors, "tiny"), spec, list(CLASSES), exits=exits)


def tiny_images(count: int = 400, seed: int = 0) -> Images:
    """Noise with one bright side: the class says which, and is wrong one time in twenty."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 120, (count, SIZE, SIZE, 3), np.uint8)
    labels = generator.integers(0, 4, count)
    sides = (np.s_[:, :8], np.s_[:, 8:], np.s_[:8], np.s_[8:])
    for image, label in zip(pixels, labels, strict=True):
        image[sides[label]] += np.uint8(generator.integers(15, 80))
    labels = np.where(generator.random(count) < 0.05, generator.integers(0, 4, count), labels)
    return Images("sides", pixels, labels.astype(np.int64), list(CLASSES), [])


def taught_program() -> Program:
    """A tiny program whose final exit knows the classes."""
    program = tiny_program()
    train_exits(program, tiny_images(seed=9), final=True, device="cpu", epochs=30)
    for exit in program.exits[:2]:
        for part in ("weight", "bias"):
            program.set_tensor(f"{exit.name}.{part}", torch.zeros_like(program.tensor(f"{exit.name}.{part}")))
        exit.enabled, exit.threshold, exit.temperature = False, 1.0, 1.0
    program.provenance.clear()
    return program


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("taught") / "taught.perse"
    taught_program().save(path)
    return path


def contents(program: Program) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in program.tensors().items()}


def is_head(name: str) -> bool:
    return name.split(".")[0] in ("exit0", "exit1", "final")


def outputs(program: Program, images: Images) -> list[Tensor]:
    with torch.no_grad():
        return list(program.module(normalise(torch.from_numpy(images.pixels), program.input)))


def trained(path: Path, images: Images | None = None, **options: object) -> tuple[Program, ExitReport]:
    program = Program.load(path)
    options = {"device": "cpu", "epochs": 30, **options}
    return program, train_exits(program, images or tiny_images(), **options)  # type: ignore[arg-type]


def test_features_are_what_the_heads_read() -> None:
    program, images = tiny_program(), tiny_images(70)
    features = extract_features(program, images.pixels, "cpu", lambda what, done, total: None)
    for exit, x, expected in zip(program.exits, features, outputs(program, images), strict=True):
        assert x.shape == (70, exit.features)
        torch.testing.assert_close(read_head(program, exit)(x), expected)


def test_features_are_full_float32_also_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    before = cudnn.allow_tf32

    def looked_at(pixels: Tensor, spec: InputSpec) -> Tensor:
        seen.append(cudnn.allow_tf32)
        return normalise(pixels, spec)

    monkeypatch.setattr(of_backbone, "normalise", looked_at)
    extract_features(tiny_program(), tiny_images(70).pixels, "cpu", lambda what, done, total: None)
    assert seen == [False, False] and cudnn.allow_tf32 == before


def test_standardising_keeps_the_function() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 12, generator=generator) * 3 + 5
    x[:, 3] = 2.0  # never moves
    head = Head(torch.full((12,), 0.3), torch.full((12,), 1.7), torch.randn(12, 4, generator=generator), torch.ones(4))
    new = standardise(head, x)
    torch.testing.assert_close(new(x), head(x), rtol=1e-4, atol=1e-4)
    moved = torch.arange(12) != 3
    standard = (x - new.shift) * new.scale
    torch.testing.assert_close(standard.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0)[moved], torch.ones(11), atol=1e-4, rtol=0)
    assert new.scale[3] < 5  # the floor: not infinite
    assert torch.equal(standardise(head, torch.ones(5, 12)).scale, torch.ones(12))


def test_exits_learn_and_the_backbone_does_not_move(taught: Path) -> None:
    old = Program.load(taught)
    program, report = trained(taught)
    before, after = contents(old), contents(program)
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in before if not is_head(name))
    final, as_before = outputs(program, tiny_images())[-1], outputs(old, tiny_images())[-1]
    torch.testing.assert_close(final, as_before, rtol=1e-4, atol=1e-4)
    for row, exit in zip(report.rows[:2], program.exits[:2], strict=True):
        assert row.after > 0.8 > 0.6 > row.before
        assert (exit.temperature, exit.threshold, exit.enabled) == (row.temperature, row.threshold, row.enabled)
        assert 0.05 < exit.temperature < 20 and exit.temperature != 1.0
    assert program.exits[0].enabled and 0 < program.exits[0].threshold < 1
    assert report.measure == "accuracy" and report.rows[-1].before == report.rows[-1].after == report.full > 0.8
    assert report.early >= report.full - 0.05 and report.cost < 0.9
    assert sum(row.share for row in report.rows) == pytest.approx(1)
    assert report.rows[-1].enabled and report.rows[0].cost == pytest.approx(1 / 3)
    assert report.train + report.calibrate + report.held_out == 400


def test_the_report_tells_the_truth(taught: Path) -> None:
    """Its figures again, from the trained program's own outputs."""
    program, report = trained(taught)
    images = tiny_images()
    assert images.labels is not None
    chosen = split_images(images.labels, 0).held_out
    logits = [z.numpy()[chosen] for z in outputs(program, images)]
    answers = np.full(len(chosen), -1)
    for exit, z in zip(program.exits, logits, strict=True):
        sure = torch.softmax(torch.from_numpy(z) / exit.temperature, 1).amax(1).numpy() >= exit.threshold
        taken = (answers < 0) & (exit.enabled & sure | (exit.name == "final"))
        answers[taken] = z.argmax(1)[taken]
    assert report.early == pytest.approx((answers == images.labels[chosen]).mean())
    for row, z in zip(report.rows, logits, strict=True):
        assert row.after == pytest.approx((z.argmax(1) == images.labels[chosen]).mean())


def test_without_labels_the_final_exit_teaches(taught: Path) -> None:
    program, report = trained(taught, replace(tiny_images(), labels=None))
    assert report.measure == "agreement" and report.rows[-1].after == 1.0
    assert report.rows[0].after > 0.8 and report.rows[0].enabled
    assert program.provenance["train_exits"]["labelled"] == 0


def test_some_labels(taught: Path) -> None:
    images = tiny_images()
    assert images.labels is not None
    labels = np.where(np.arange(400) % 2 == 0, images.labels, -1)
    program, report = trained(taught, replace(images, labels=labels))
    assert report.measure == "accuracy" and report.rows[0].after > 0.8
    assert program.provenance["train_exits"]["labelled"] == 200


def test_labels_outside_the_held_out_slice_only(taught: Path) -> None:
    images = tiny_images()
    assert images.labels is not None
    split = split_images(outputs(Program.load(taught), images)[-1].argmax(1).numpy(), 0)
    labels = np.full(400, -1)
    labels[split.train[:2]] = [0, 1]
    _, report = trained(taught, replace(images, labels=labels))
    assert report.train > 0


def test_the_final_head_learns_only_when_asked() -> None:
    program, images = tiny_program(), tiny_images()
    report = train_exits(program, images, device="cpu", epochs=30, final=True)
    assert report.rows[-1].after > 0.8 > report.rows[-1].before


def test_a_program_without_names_takes_those_of_the_images(taught: Path) -> None:
    program = Program.load(taught)
    train_exits(program, replace(tiny_images(), class_names=["a", "b", "c", "d"]), device="cpu", epochs=1)
    assert program.classes == CLASSES
    program.classes = [f"class{index}" for index in range(4)]
    train_exits(program, tiny_images(), device="cpu", epochs=1)
    assert program.classes == CLASSES


def test_the_bundled_classifier() -> None:
    """Real passes, real weights, real images."""
    weights = str(EXAMPLES / "fashion_mnist_shufflenet.safetensors")
    program = insert_exits("shufflenet_v2_x1_0", weights=weights, num_classes=10, input_size=(64, 64))
    images = read_images(EXAMPLES / "fashion_mnist_train.npz", program.input, program.classes)
    before = contents(program)
    report = train_exits(program, images, device="cpu")
    heads = tuple(f"{exit.name}." for exit in program.exits)
    assert all(data == before[name] for name, data in contents(program).items() if not name.startswith(heads))
    assert program.classes[9] == "ankle boot"
    assert report.rows[0].before < 0.5 and all(row.after > 0.85 for row in report.rows)
    assert report.cost < 0.5 and report.early > report.full - 0.03  # two standard errors of 450 images over max_drop


def test_the_same_seed_gives_the_same_program(taught: Path) -> None:
    first, report = trained(taught)
    second, again = trained(taught)
    other, _ = trained(taught, seed=1)
    assert contents(first) == contents(second) and report == again
    assert contents(first) != contents(other)


def test_provenance_survives_saving(taught: Path, tmp_path: Path) -> None:
    program, report = trained(taught)
    program.save(tmp_path / "a.perse")
    loaded = Program.load(tmp_path / "a.perse")
    entry = loaded.provenance["train_exits"]
    assert entry["data"] == "sides" and entry["seed"] == 0 and entry["images"]["held_out"] == report.held_out
    assert entry["after"]["exit0"] == pytest.approx(report.rows[0].after, abs=1e-6)
    assert loaded.exits == program.exits and contents(loaded) == contents(program)


def test_stopping_leaves_the_program_as_it_was(taught: Path) -> None:
    whats = []

    def note(what: str, done: int, total: int) -> None:
        whats.append((what, done, total))

    trained(taught, progress=note, epochs=3)
    assert whats[-1] == ("training exit1", 3, 3) and ("features", 400, 400) in whats
    for stop in (whats[0], ("training exit0", 2, 3), whats[-1]):
        program = Program.load(taught)
        before, exits = contents(program), [replace(exit) for exit in program.exits]

        def interrupt(what: str, done: int, total: int, stop: tuple[str, int, int] = stop) -> None:
            if (what, done, total) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_exits(program, tiny_images(), device="cpu", epochs=3, progress=interrupt)
        assert contents(program) == before and program.exits == exits and "train_exits" not in program.provenance


def test_splits_are_disjoint_and_stratified() -> None:
    classes = np.repeat([0, 1, 2], [100, 40, 60])
    split = split_images(classes, 3)
    everything = np.concatenate([split.train, split.calibrate, split.held_out])
    assert np.array_equal(np.sort(everything), np.arange(200))
    for label, count in enumerate((100, 40, 60)):
        assert abs((classes[split.held_out] == label).sum() - 0.15 * count) <= 1
        assert abs((classes[split.calibrate] == label).sum() - 0.15 * count) <= 1


def test_one_image_per_class_can_still_be_split() -> None:
    split = split_images(np.arange(100), 0)
    assert 5 < len(split.calibrate) < 30 and 5 < len(split.held_out) < 30
    with pytest.raises(DataError, match="2 images are too few"):
        split_images(np.arange(2), 0)


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="has 19 images; training exits needs at least 20"):
        train_exits(tiny_program(), tiny_images(19), device="cpu")


def test_one_class_only() -> None:
    one = replace(tiny_images(), labels=np.ones(400, np.int64))
    with pytest.raises(DataError, match=r"one class only \(right\)"):
        train_exits(tiny_program(), one, device="cpu")


def test_no_exits() -> None:
    program = tiny_program()
    program.exits.clear()
    with pytest.raises(PassError, match="tiny has no exits; run insert-exits"):
        train_exits(program, tiny_images(), device="cpu")


def test_exits_without_heads() -> None:
    program = tiny_program()
    program.exits.insert(2, replace(program.exits[1], name="exit2"))
    with pytest.raises(PassError, match=r"no tensor named 'exit2.shift'"):
        train_exits(program, tiny_images(), device="cpu")
