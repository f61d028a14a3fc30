"""One pass a file. `PASSES` names them all; `default_pipeline` is the order in which insert-exits runs them."""

from __future__ import annotations

from perse_compile.passes.build_training_graph import BuildTrainingGraph
from perse_compile.passes.canonicalise import Canonicalise
from perse_compile.passes.evaluation_form import EvaluationForm
from perse_compile.passes.find_cut_points import FindCutPoints
from perse_compile.passes.fold_batch_norm import FoldBatchNorm
from perse_compile.passes.head_types import AUTO, HeadWish
from perse_compile.passes.insert_exits import InsertExits
from perse_compile.passes.place_exits import PlaceExits
from perse_compile.passes.propagate_shapes import PropagateShapes
from perse_compile.passes.split_stages import SplitStages
from perse_compile.pipeline import Pass

PASSES: dict[str, type[Pass]] = {
    "evaluation-form": EvaluationForm,
    "canonicalise": Canonicalise,
    "fold-batch-norm": FoldBatchNorm,
    "propagate-shapes": PropagateShapes,
    "find-cut-points": FindCutPoints,
    "place-exits": PlaceExits,
    "insert-exits": InsertExits,
    "split-stages": SplitStages,
    "build-training-graph": BuildTrainingGraph,
}


def analysis_pipeline() -> list[Pass]:
    """From a traced network to its cut points."""
    return [EvaluationForm(), Canonicalise(), FoldBatchNorm(), PropagateShapes(), FindCutPoints()]


def exits_pipeline(exits: str | int | tuple[str, ...], *, head: HeadWish = AUTO, spare: int = 0) -> list[Pass]:
    """From a network's cut points to a multi-exit program with so many outputs for classes to come."""
    return [PlaceExits(exits, head, spare), InsertExits(spare=spare), SplitStages(), BuildTrainingGraph()]


def default_pipeline(
    exits: str | int | tuple[str, ...] = "auto", *, head: HeadWish = AUTO, spare: int = 0
) -> list[Pass]:
    """From a traced network to a multi-exit program with so many outputs for classes to come."""
    return [*analysis_pipeline(), *exits_pipeline(exits, head=head, spare=spare)]
