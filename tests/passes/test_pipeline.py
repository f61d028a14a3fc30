"""Every pass: golden text, numbers, an error, nothing to do."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from perse_compile.dump import dump, dump_to
from perse_compile.errors import PassError, VerifyError
from perse_compile.ops import OPS
from perse_compile.passes import PASSES, analysis_pipeline, default_pipeline
from perse_compile.passes.build_training_graph import INPUTS, loss_graph
from perse_compile.passes.canonicalise import Canonicalise
from perse_compile.passes.evaluation_form import EvaluationForm
from perse_compile.passes.find_cut_points import FindCutPoints
from perse_compile.passes.fold_batch_norm import FoldBatchNorm
from perse_compile.passes.insert_exits import InsertExits
from perse_compile.passes.place_exits import PlaceExits
from perse_compile.passes.propagate_shapes import PropagateShapes
from perse_compile.passes.split_stages import SplitStages
from perse_compile.pipeline import Pass, run
from perse_compile.program import Program
from perse_compile.same_function import SameFunction
from perse_compile.verify import verify
from tests import models
from tests.helpers import calls, check_pass, prepared, traced

BEFORE = {name: default_pipeline(1)[:i] for i, name in enumerate(PASSES)}


@pytest.mark.parametrize("name", PASSES)
def test_golden_of_every_pass(name: str, golden) -> None:
    program = prepared(models.Plain(), BEFORE[name])
    golden(f"plain-{name}", dump(check_pass(program, default_pipeline(1)[len(BEFORE[name])])))


@pytest.mark.parametrize("network", models.ALL)
def test_own_networks_compute_the_same(network: type[nn.Module], golden) -> None:
    program = traced(network(), network.__name__.lower())
    if network is models.Branches:  # its log_softmax goes
        program = run(program, [EvaluationForm()])
        result = check_pass(program, *default_pipeline()[1:])
    else:
        result = check_pass(program, *default_pipeline())
    assert {node.op for node in result.module.graph.nodes} == {"placeholder", "get_attr", "call_function", "output"}
    golden(f"network-{result.name}", dump(result).partition("\ntraining")[0])


@pytest.mark.parametrize("step", [EvaluationForm(), FoldBatchNorm(), PropagateShapes(), FindCutPoints()])
def test_nothing_to_do_changes_nothing(step: Pass) -> None:
    program = prepared(models.Plain(), analysis_pipeline())
    text = dump(program)
    step.apply(program)
    assert dump(program) == text


# --- the loop ---------------------------------------------------------------------------------------------


def test_order_is_a_precondition() -> None:
    with pytest.raises(PassError, match="insert-exits needs what place-exits does; run place-exits before it"):
        run(traced(models.Plain()), [EvaluationForm(), InsertExits()])


def test_a_failure_names_the_pass_and_those_before() -> None:
    program = traced(models.Plain())
    network = models.Computes(lambda m, x: torch.cumsum(x, 1).mean((2, 3)))
    program.module = torch.fx.GraphModule(network, _trace(network))
    with pytest.raises(PassError, match=r"\[canonicalise, after evaluation-form\]"):
        run(program, default_pipeline())


def test_registry_has_every_pass_under_its_name() -> None:
    assert {name: cls.name for name, cls in PASSES.items()} == {name: name for name in PASSES}
    assert [step.name for step in default_pipeline()] == list(PASSES)
    files = {p.stem.replace("_", "-") for p in Path("passes").glob("*.py")} - {"--init--", "head-types"}
    assert files == set(PASSES)


def test_dump_writes_after_every_pass(tmp_path: Path) -> None:
    run(traced(models.Plain()), default_pipeline(), [dump_to(tmp_path / "d")])
    assert [p.name for p in sorted((tmp_path / "d").iterdir())] == [f"{i:02d}-{n}.txt" for i, n in enumerate(PASSES)]


def test_a_pass_that_changes_the_network_is_caught() -> None:
    class Break(FoldBatchNorm):
        def apply(self, program: Program) -> None:
            program.set_tensor("fc.bias", program.tensor("fc.bias") + 1)

    with pytest.raises(VerifyError, match="computes something else after fold-batch-norm"):
        run(traced(models.Plain()), [EvaluationForm(), Canonicalise(), Break()], [SameFunction()])


# --- canonicalise -----------------------------------------------------------------------------------------

UNSUPPORTED = {
    "no operation for this": lambda m, x: torch.cumsum(x, 1).mean((2, 3)),
    "mixes the batch": lambda m, x: x.flatten(1).view(16, -1, 4).mean(2),
    "parts of an image, which are a batch of their own": lambda m, x: F.avg_pool2d(x.flatten(0, 1)[:, None], 2),
    "images together with parts of them": lambda m, x: x.mean((2, 3)) * x.flatten(2).flatten(0, 1)[:, :1],
    "works across the batch": lambda m, x: x.mean((2, 3)).softmax(0),
    "reduces the batch too": lambda m, x: x.mean((2, 3)) - x.mean(),
    "moves the batch": lambda m, x: x.transpose(0, 1).relu().transpose(0, 1).mean((2, 3)),
    "weights computed from the image": lambda m, x: F.linear(x.mean((2, 3)), x.mean((2, 3))),
    "pads other than": lambda m, x: F.pad(x.flatten(2), (0, 0, 0, 0, 1, 1)).mean(2),
    "expanded by new dimensions": lambda m, x: x.mean((2, 3)).expand(2, -1, -1).mean(0),
    "expands 3 to 32": lambda m, x: x.expand(-1, 32, -1, -1).relu().mean((2, 3)),
    "indices of a pool": lambda m, x: m.pool(x)[0].mean((2, 3)),
    "divisor_override": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3).mean((2, 3)),
    "limits that are tensors": lambda m, x: torch.clamp(x, min=torch.zeros(1)).mean((2, 3)),
    "joins a constant": lambda m, x: torch.cat([x, torch.zeros(1, 3, 8, 16), x], 2).mean((2, 3)),
    "normalises by the batch": lambda m, x: F.batch_norm(x, None, None, training=True).mean((2, 3)),
    "2 groups of": lambda m, x: F.group_norm(x.mean((2, 3)), 2).mean((2, 3)),
    "normalises over": lambda m, x: F.layer_norm(x, (8, 8)).mean((2, 3)),
    "a product of": lambda m, x: (x @ x[:, 0]).mean((2, 3)),
    "a constant that is no matrix": lambda m, x: (torch.ones(1, 16, 16, 16) @ x).mean((2, 3)),
    "attention that is causal": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True).mean((2, 3)),
    "an empty slice": lambda m, x: torch.cat([x, x[:, 3:]], 1).mean((2, 3)),
    "called in a form": lambda m, x: torch.add(x, x, out=x).mean((2, 3)),
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_what_cannot_be_compiled_says_so_and_where(message: str) -> None:
    program = traced(models.Plain())
    network = models.Computes(UNSUPPORTED[message], pool=nn.MaxPool2d(2, return_indices=True))
    program.module = torch.fx.GraphModule(network, _trace(network))
    with pytest.raises(PassError, match=rf"node \w+ \(.* at .*test_pipeline\.py:\d+ `.+`\): .*{re.escape(message)}"):
        run(program, [EvaluationForm(), Canonicalise()])


def _trace(network: nn.Module) -> torch.fx.Graph:
    from perse_compile.tracer import Tracer

    return Tracer().trace(network.eval())


@pytest.mark.parametrize("what", [lambda m, x: x.relu(), lambda m, x: x.mean(3).flatten(0, 1)])
def test_output_must_be_logits(what: Any) -> None:
    program = traced(models.Plain())
    network = models.Computes(what)
    program.module = torch.fx.GraphModule(network, _trace(network))
    with pytest.raises(PassError, match="must return one tensor of logits"):
        run(program, [EvaluationForm(), Canonicalise()])


def test_more_than_one_input() -> None:
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    program = traced(models.Plain())
    program.module = torch.fx.symbolic_trace(Two())
    with pytest.raises((PassError, VerifyError), match=r"2 inputs|more than one input"):
        run(program, [EvaluationForm(), Canonicalise()])


def test_shuffle_and_slices_become_operations() -> None:
    program = prepared(models.Pieces(), analysis_pipeline())
    assert "channel_shuffle" in calls(program)
    assert calls(program).count("slice_dim") >= 6
    assert calls(program).count("reshape") == 1  # of amax


# --- fold-batch-norm --------------------------------------------------------------------------------------


def test_norms_fold_and_shared_layers_keep_one_tensor() -> None:
    program = prepared(models.Shared(), analysis_pipeline())
    assert "affine" not in calls(program)
    weights = [
        node.args[1].name
        for node in program.module.graph.nodes
        if node.name.startswith("conv") and node.op == "call_function"
    ]
    assert len(weights) == 3
    assert len(set(weights)) == 2


def test_a_norm_before_any_layer_stays_an_affine() -> None:
    program = prepared(models.OddNames(), analysis_pipeline())
    assert calls(program).count("affine") == 1


# --- propagate-shapes -------------------------------------------------------------------------------------


def test_weights_must_be_finite() -> None:
    program = prepared(models.Plain(), [EvaluationForm(), Canonicalise(), FoldBatchNorm()])
    program.tensor("fc.weight")[0, 0] = float("nan")
    with pytest.raises(PassError, match=r"fc\.weight holds NaN"):
        run(program, [PropagateShapes()])


def test_weights_must_be_float32() -> None:
    program = prepared(models.Plain(), [EvaluationForm(), Canonicalise(), FoldBatchNorm()])
    program.set_tensor("fc.weight", program.tensor("fc.weight").double())
    with pytest.raises(PassError, match="only float32"):
        run(program, [PropagateShapes()])


def test_a_node_that_cannot_be_computed() -> None:
    program = prepared(models.Plain(), [EvaluationForm(), Canonicalise(), FoldBatchNorm()])
    program.set_tensor("fc.weight", torch.zeros(5, 9))
    with pytest.raises(PassError, match="node fc cannot be computed"):
        run(program, [PropagateShapes()])


# --- exits ------------------------------------------------------------------------------------------------


def test_cut_points_are_what_every_path_crosses() -> None:
    assert [c.node for c in prepared(models.Branches(), analysis_pipeline()).cuts] == [
        "stem",
        "relu",
        "add",
        "last",
        "adaptive_avg_pool2d_1",
    ]
    program = prepared(models.Pieces(), analysis_pipeline())
    assert "permute" not in [cut.node for cut in program.cuts]


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        (("left",), "not a cut point: .*nearest cut points are relu, add"),
        (("relux",), "no node named 'relux' in net; the nearest cut points are relu"),
        (("relu", "relu"), "named twice"),
        (99, "places for exits, not 99"),
        (0, "is not auto, a positive number"),
        ("some", "is not auto, a positive number"),
    ],
)
def test_exits_that_cannot_be_placed(exits, message: str) -> None:
    program = prepared(models.Branches(), analysis_pipeline())
    with pytest.raises(PassError, match=message):
        run(program, [PlaceExits(exits)])


def test_exits_by_name_are_in_order_of_the_network() -> None:
    program = prepared(models.Branches(), [*analysis_pipeline(), PlaceExits(("add", "relu"))])
    assert [(e.name, e.tap, e.grid) for e in program.exits] == [("exit0", "relu", 4), ("exit1", "add", 4)]


def test_heads() -> None:
    program = prepared(models.Plain(), default_pipeline(("relu",)))
    exit, final = program.exits
    assert (exit.enabled, final.enabled, final.name, final.grid, final.tap) == (False, True, "final", 1, "mean")
    assert program.tensor("exit0.weight").shape == (exit.features, 5)
    assert not program.tensor("exit0.bias").any()
    again = prepared(models.Plain(), default_pipeline(("relu",)))
    assert torch.equal(program.tensor("exit0.weight"), again.tensor("exit0.weight"))


def test_a_network_that_does_not_end_in_a_linear_layer() -> None:
    program = prepared(models.Branches(), default_pipeline(1))
    assert torch.equal(program.tensor("final.weight"), torch.eye(6))


def test_stages_hold_the_backbone() -> None:
    program = prepared(models.Shared(), default_pipeline(("relu", "relu_2")))
    assert [(s.name, s.input, s.output) for s in program.stages][:2] == [
        ("exit0", "x", "relu"),
        ("exit1", "relu", "relu_2"),
    ]
    assert "conv_weight" in program.stages[0].nodes[0] or program.stages[0].nodes[0].startswith("conv")
    assert all(stage.nodes[-1] == stage.output for stage in program.stages)


def test_loss_is_that_of_the_runtime() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 6), (6,), (6,), (6, 3), (3,), (6, 3), (3,), (4, 3), (4, 3), (1,), (1,)]
    values = [torch.rand(shape, generator=generator) for shape in shapes]
    features, shift, scale, weight, bias, anchor_weight, anchor_bias, hard, soft, inverse_t, decay = values
    z = ((features - shift) * scale) @ weight + bias
    expected = -(hard * z.log_softmax(1)).sum() - (soft * (z * inverse_t).log_softmax(1)).sum()
    expected = expected + decay / 2 * ((weight - anchor_weight).square().sum() + (bias - anchor_bias).square().sum())
    loss = torch.fx.GraphModule({}, loss_graph())(*values)
    assert loss.shape == ()
    assert [n.name for n in loss_graph().nodes if n.op == "placeholder"] == list(INPUTS)
    torch.testing.assert_close(loss, expected[0])


# --- verify -----------------------------------------------------------------------------------------------


def as_method(node: torch.fx.Node) -> None:
    node.op, node.target = "call_method", "relu"


BREAKAGES = {
    "after canonicalise only": lambda p: as_method(p.node("relu")),
    "not an operation of perse_compile.ops": lambda p: p.node("relu").__setattr__("target", F.relu),
    "cannot be saved": lambda p: p.node("relu").__setattr__("kwargs", {"inplace": True}),
    "is broken: .*nothing": lambda p: p.node("conv1_weight").__setattr__("target", "nothing"),
    "has no shape": lambda p: p.node("relu").meta.clear(),
    "not float32": lambda p: p.set_tensor("conv1.weight", p.tensor("conv1.weight").double()),
    "cut point": lambda p: p.node(p.cuts[0].node).meta.__setitem__("shape", (1, 2, 3)),
    "one tensor of logits for each": lambda p: p.exits.pop(),
    "must end in a head": lambda p: setattr(p.module.graph.output_node().args[0][0], "target", OPS["relu"]),
    "reads relu on grid": lambda p: setattr(p.exits[0], "grid", 3),
    r"exit0\.weight must have shape": lambda p: p.set_tensor("exit0.weight", torch.zeros(1)),
    "temperature -1": lambda p: setattr(p.exits[0], "temperature", -1),
    "an enabled one called final": lambda p: setattr(p.exits[-1], "enabled", False),
    "one stage for each": lambda p: p.stages.pop(),
    "only an earlier stage": lambda p: p.stages[-1].__setattr__("input", "conv1"),
    "in two stages": lambda p: p.stages[1].nodes.insert(0, "x") or p.stages[1].nodes.extend(p.stages[0].nodes),
    "one training graph": lambda p: p.training.clear(),
    "only read its inputs": lambda p: p.training["final"].create_node("get_attr", "x"),
}  # fmt: skip


@pytest.mark.parametrize("message", BREAKAGES)
def test_verify_finds(message: str) -> None:
    program = prepared(models.Plain(), default_pipeline(("relu",)))
    verify(program)
    broken = copy.deepcopy(program)
    for name, graph in program.training.items():
        broken.training[name] = graph if message != "only read its inputs" else loss_graph()
    BREAKAGES[message](broken)
    with pytest.raises(VerifyError, match=message):
        verify(broken)


def test_verify_finds_two_exits_of_one_name() -> None:
    program = prepared(models.Plain(), default_pipeline(("relu", "relu_1")))
    program.exits[1].name = "exit0"
    with pytest.raises(VerifyError):
        verify(program)


def test_verify_finds_a_graph_without_output() -> None:
    program = traced(models.Plain())
    program.module.graph.erase_node(program.module.graph.output_node())
    with pytest.raises(VerifyError, match="0 outputs"):
        verify(program)


def test_split_stages_alone() -> None:
    program = prepared(models.Plain(), default_pipeline(1)[:-2])
    assert not check_pass(program, SplitStages()).training
