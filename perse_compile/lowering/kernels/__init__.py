"""Each operation as a tensor expression over physical layouts.

`lower_group` turns one group of nodes into the kernel calls that compute it: usually one, preceded by a
copy into a zero-padded buffer where a convolution or pooling needs it, or none where only the view changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import fx
from tvm import te

from perse_compile.errors import LoweringError
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.expressions import BINARY, UNARY
from perse_compile.lowering.fuse import ANCHORS, WRITES_IMAGES, Group, op_of
from perse_compile.lowering.kernels import margins, moves, normalisation, pointwise, pooling, products
from perse_compile.lowering.kernels.scope import Array, KernelCall, Part, Scope, Stored, args_of, copy
from perse_compile.lowering.pooled import sums_of
from perse_compile.lowering.schedules import elementwise
from perse_compile.lowering.schedules.rows import SUMS
from perse_compile.lowering.strided import unfold_rows, with_strides
from perse_compile.lowering.values import CHANNELS_LAST, Value, default_order
from perse_compile.targets import Target

if TYPE_CHECKING:
    from perse_compile.lowering.arrangement import Arrangement


def lower_group(
    group: Group,
    values: dict[str, Stored],
    weights: Callable[[fx.Node], Array],
    choices: Choices,
    arrangement: Arrangement,
) -> list[KernelCall]:
    """Kernel calls of one group; enters the stored result under the last node's name in `values`."""
    parts, scales = arrangement.parts, arrangement.scales
    if group.last in scales:
        values[group.last.name] = values[scales[group.last][0].name]
        return []
    part = parts.get(group.last) if op_of(group.last) in WRITES_IMAGES else None
    if part is not None and op_of(group.last) == "concat":
        return join(group.last, parts, values, choices.target)
    if len(group.nodes) == 1 and part is None and (view := as_view(group.last, values)) is not None:
        values[group.last.name] = view
        return []
    around = part.image.margins if part else margins.wanted(group.last, choices)
    laid, copies = as_wanted(group, values, choices.target)
    scope = Scope(laid, weights, choices, around, part, scales=scales, reads=_stored_inputs(group, laid), before=copies)
    for node in group.nodes:
        op = op_of(node)
        try:
            scope.inner[node] = LOWER[op](scope, node)
        except KeyError as error:
            raise LoweringError(f"node {node.name}: no lowering for {op} ({error})") from error
    result = scope.inner[group.last]
    if any(result.tensor is tensor for tensor, _ in scope.inputs):  # permuted there and back: nothing is computed
        values[group.last.name] = replace(laid[args_of(group.nodes[0])[0].name], order=result.order)
        return scope.before
    stored = _store(scope, group.last, result)
    made = call(scope, group, result, stored, arrangement.summed.get(group.last, 0))
    values[group.last.name] = stored
    if made.sums:
        values[sums_of(group.last)] = Stored(*made.sums, CHANNELS_LAST)
    return [*scope.before, made]


def as_wanted(group: Group, values: dict[str, Stored], target: Target) -> tuple[dict[str, Stored], list[KernelCall]]:
    """The values with those that the group's anchor reads lying as it reads them, and the copies that takes.

    Only what was permuted lies otherwise.
    """
    anchor = group.nodes[0]
    op, first = op_of(anchor), args_of(anchor)[1 if op_of(anchor) == "matmul" else 0]
    if op not in READS_IMAGES | READS_LAST or first.name not in values:
        return values, []
    rank, order = len(values[first.name].order), values[first.name].order
    if op in READS_IMAGES and rank == 4:
        order = CHANNELS_LAST
    elif op in READS_LAST and order[-1] != rank - 1:
        order = tuple(range(rank))
    beside = [node for member in group.nodes[1:] for node in member.all_input_nodes]  # which take the result's order
    seen, copies = dict(values), []
    for node in dict.fromkeys([first, *(beside if op != "matmul" else [])]):
        stored = values.get(node.name)
        if stored is None or stored.order == order or len(stored.order) != rank:
            continue
        sizes = dict(zip(stored.order, stored.shape, strict=True))
        seen[node.name] = Stored(f"{anchor.name}.{node.name}.turned", tuple(sizes[i] for i in order), order)
        copies.append(copy(stored, seen[node.name], target))
    return seen, copies


def _stored_inputs(group: Group, values: dict[str, Stored]) -> list[Stored]:
    return [values[node.name] for member in group.nodes for node in member.all_input_nodes if node.name in values]


def _store(scope: Scope, node: fx.Node, result: Value) -> Stored:
    """How the result lies in memory: with the margins that its readers want, if the kernel sees rows and columns."""
    sizes = (1, *node.meta["shape"])
    shape = tuple(sizes[i] for i in result.order)
    if result.order != CHANNELS_LAST:
        return Stored(node.name, shape, result.order)
    return scope.part.stored() if scope.part else margins.with_margins(node.name, shape, scope.margins)


def call(scope: Scope, group: Group, result: Value, stored: Stored, pieces: int) -> KernelCall:
    """`pieces`: into which somebody would like the result's rows added up, if this kernel can do that."""
    unfolded, lies, folds = dict(scope.unfolded), stored, False
    if scope.rows is not None and stored.strides is not None:
        if (strides := stored.strides.seen_as(stored.shape, result.shape)) is not None:
            lies = replace(stored, strides=strides)
        else:
            folds = True
    func = te.create_prim_func([tensor for tensor, _ in scope.inputs] + [result.tensor]).with_attrs(scope.attributes)
    sums = None
    if scope.sums_rows and not (folds or scope.part) and result.order == CHANNELS_LAST:
        sums = pooling.sums_of_rows(result.shape, pieces, stored.shape[1])
    if sums is not None:
        func = func.with_attr(SUMS, pieces)  # the schedule adds them up
    if folds:
        unfolded[len(func.params) - 1] = stored.shape[1], stored.shape[2]
    func = margins.write(with_strides(unfold_rows(func, unfolded), scope.strided), lies)
    image = scope.part.image if scope.part else stored
    begun = any(value.name == stored.name for value in scope.values.values())
    if not begun:
        func = margins.begin(func, image)
    schedule = scope.schedule or partial(elementwise.schedule, target=scope.target)
    hint = "_".join(op_of(node) for node in group.nodes[:4])
    return KernelCall(
        hint,
        func,
        schedule,
        [source for _, source in scope.inputs],
        stored.name,
        stored.memory if stored.strides else result.shape,
        continues=begun,
        sums=None if sums is None else (sums_of(group.last), sums),
    )


def join(node: fx.Node, parts: Mapping[fx.Node, Part], values: dict[str, Stored], target: Target) -> list[KernelCall]:
    """Concatenation in place: copies of what does not lie there yet."""
    part, calls, first = parts[node], [], parts[node].first
    begun = any(value.name == part.image.name for value in values.values())
    for source in args_of(node)[0]:
        stored, here = values[source.name], Part(part.image, first, source.meta["shape"][0])
        first += here.channels
        copied_before = f"{source.name} at {here.first}"
        if here.stored() in (stored, values.get(copied_before)):
            continue
        values[copied_before] = here.stored()
        copied = copy(stored, here.stored(), target, continues=begun)
        calls.append(copied if begun else replace(copied, func=margins.begin(copied.func, part.image)))
        begun = True
    values[node.name] = part.stored()
    return calls


def as_view(node: fx.Node, values: dict[str, Stored]) -> Stored | None:
    op = op_of(node)
    if op == "permute":
        source = values[args_of(node)[0].name]
        dims = args_of(node)[1]
        assert isinstance(dims, tuple | list)
        return replace(source, order=tuple(list(dims).index(i) for i in source.order))
    if op == "reshape" or (op == "pool_features" and len(args_of(node)[0].meta["shape"]) == 1):
        source = values[args_of(node)[0].name]
        shape = (1, *node.meta["shape"])
        order = default_order(len(shape))
        target = Value(te.placeholder(tuple(shape[i] for i in order)), order)
        if source.strides is None and source.as_value().plain and target.plain:
            return Stored(source.name, target.shape, order)
    if op == "slice_dim" and args_of(node)[1] == 1:
        source = values[args_of(node)[0].name]
        if source.order == CHANNELS_LAST:
            return replace(Part(source, args_of(node)[2], node.meta["shape"][0]).stored(), name=source.name)
    return None


LOWER: dict[str, Callable[[Scope, fx.Node], Value]] = {
    "conv2d": products.conv2d,
    "linear": products.linear,
    "matmul": products.matmul,
    "max_pool2d": pooling.max_pool2d,
    "avg_pool2d": pooling.avg_pool2d,
    "adaptive_avg_pool2d": pooling.adaptive_avg_pool2d,
    "adaptive_max_pool2d": pooling.adaptive_max_pool2d,
    "pool_features": pooling.pool_features,
    "mean": pooling.mean,
    "amax": pooling.amax,
    "layer_norm": normalisation.layer_norm,
    "softmax": normalisation.softmax,
    "affine": pointwise.affine,
    "concat": moves.concat,
    "slice_dim": moves.slice_dim,
    "reshape": moves.reshape,
    "permute": moves.permute,
    "channel_shuffle": moves.channel_shuffle,
    "pad": moves.pad,
    "pad_by_image": moves.pad_by_image,
    "pad_channels": moves.pad_channels,
    "upsample": moves.upsample,
    **dict.fromkeys(UNARY, pointwise.unary),
    **dict.fromkeys(BINARY, pointwise.binary),
}
READS_IMAGES = {"conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "pool_features"}
READS_LAST = {"linear", "layer_norm", "matmul"}  # the last dimension; matmul of its second matrix
assert set(LOWER) >= ANCHORS
