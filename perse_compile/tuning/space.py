"""The values that every knob of a workload may have."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from perse_compile.lowering import defaults
from perse_compile.lowering.choices import Knobs, default
from perse_compile.lowering.legal import FARTHEST_AHEAD, is_legal, tiled_shape
from perse_compile.lowering.schedules.conv import ConvKnobs, blocks
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.schedules.elementwise import HeadKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target
from perse_compile.tuning.model import points

HOPELESS = 2.5  # times the cost of the best tile, by the model
PIECES = (1, 2, 4, 8)
OF_MEMORY = ("winograd", "channels_first", "ahead", "channels_last")  # what an instruction count cannot judge


@dataclass(frozen=True)
class Axis:
    """Knobs that are chosen together, and the combinations of values they may have."""

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Sketch:
    """Knobs that share their structure: those of `base`, with every axis free."""

    base: Knobs
    axes: tuple[Axis, ...]

    def knobs(self, indices: Sequence[int]) -> Knobs:
        changes: dict[str, Any] = {}
        for axis, index in zip(self.axes, indices, strict=True):
            changes.update(zip(axis.names, axis.values[index], strict=True))
        return replace(self.base, **changes)

    def indices(self, knobs: Knobs) -> tuple[int, ...] | None:
        """Where these knobs lie, or None if they are of another sketch."""
        try:
            found = tuple(axis.values.index(tuple(getattr(knobs, n) for n in axis.names)) for axis in self.axes)
        except (ValueError, AttributeError):
            return None
        return found if self.knobs(found) == knobs else None

    def all(self) -> Iterator[Knobs]:
        for indices in itertools.product(*(range(len(axis.values)) for axis in self.axes)):
            yield self.knobs(indices)


def sketches(work: Workload, target: Target, *, by_instructions: bool = False) -> list[Sketch]:
    """All legal knobs but hopeless ones, by structure; the one with the default knobs comes first.

    `by_instructions`: without knobs that change when memory is read rather than what is executed.
    """
    usual = default(work, target)
    found = []
    for base in _bases(work, target, usual):
        free = [
            axis for axis in _axes(work, base, target) if not (by_instructions and set(axis.names) & set(OF_MEMORY))
        ]
        found.append(Sketch(base, tuple(_with(axis, usual, base) for axis in free)))
    if by_instructions:
        found = [sketch for sketch in found if all(_same(sketch.base, usual, name) for name in OF_MEMORY)]
    return sorted(found, key=lambda sketch: sketch.indices(usual) is None)


def _same(a: Knobs, b: Knobs, name: str) -> bool:
    return getattr(a, name, None) == getattr(b, name, None)


def _with(axis: Axis, usual: Knobs, base: Knobs) -> Axis:
    """The same axis with the default's values, if the default is of this sketch."""
    own = tuple(getattr(usual, name) for name in axis.names)
    same = isinstance(base, ConvKnobs) and isinstance(usual, ConvKnobs)
    if own in axis.values or (same and (base.winograd, base.pieces) != (usual.winograd, usual.pieces)):  # type: ignore[union-attr]
        return axis
    return Axis(axis.names, (*axis.values, own))


def _bases(work: Workload, target: Target, usual: Knobs) -> Iterator[Knobs]:
    if not isinstance(usual, ConvKnobs):
        yield usual
        return
    ways = [(0, 0)]
    if work.family == "conv":
        ways += [(0, pieces) for pieces in PIECES if work.pixels % pieces == 0 and work.height > 1]
        ways += [(m, 0) for m in defaults.TILES if defaults.can_winograd(work, target)]
    if (usual.winograd, usual.pieces) not in ways:
        ways.append((usual.winograd, usual.pieces))
    for m, pieces in ways:
        plain = replace(usual, winograd=m, pieces=pieces, channels_first=not m)
        best = min(_tiles(work, plain, target), key=lambda knobs: points(work, knobs, target), default=None)
        if best is not None:
            yield replace(usual, winograd=m, pieces=pieces) if (m, pieces) == (usual.winograd, usual.pieces) else best


def _tiles(work: Workload, base: ConvKnobs, target: Target) -> Iterator[ConvKnobs]:
    shape = tiled_shape(work, base.winograd, base.pieces)
    for block in blocks(shape, target.lanes):
        for rows in range(1, 5):
            for columns in range(1, min(shape.width, 16) + 1):
                knobs = replace(base, rows=rows, columns=columns, block=block)
                if is_legal(work, knobs, target):
                    yield knobs


def _axes(work: Workload, base: Knobs, target: Target) -> Iterator[Axis]:
    if isinstance(base, ConvKnobs):
        yield _axis(("rows", "columns", "block"), _promising(work, _tiles(work, base, target), target))
        group = work.group_in
        yield _axis(("unroll",), (replace(base, unroll=n) for n in (1, 2, 3, 4, 6, 8, 16) if group % n == 0))
        orders = itertools.product((base.channels_first, not base.channels_first), range(FARTHEST_AHEAD))
        every = (replace(base, channels_first=first, ahead=ahead) for first, ahead in orders)
        yield _axis(("channels_first", "ahead"), (knobs for knobs in every if is_legal(work, knobs, target)))
    elif isinstance(base, DepthwiseKnobs):
        lanes = target.lanes
        several = itertools.product(range(1, 5), range(1, 9), (lanes, 2 * lanes, 4 * lanes, base.block))
        unrolled = ((True, True), (False, True), (False, False))
        every_tile = (
            replace(base, rows=rows, columns=columns, block=block, unroll_y=y, unroll_x=x)
            for (rows, columns, block), (y, x) in itertools.product(several, unrolled)
        )
        legal = (knobs for knobs in every_tile if is_legal(work, knobs, target))
        yield _axis(("rows", "columns", "block", "unroll_y", "unroll_x"), _promising(work, legal, target))
        yield Axis(("channels_last",), ((base.channels_last,), (not base.channels_last,)))
    else:
        ways = itertools.product((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 4, 8, 16))
        every_way = (HeadKnobs(pieces, rows) for pieces, rows in ways)
        yield _axis(("pieces", "rows"), (knobs for knobs in every_way if is_legal(work, knobs, target)))


def _promising(work: Workload, given: Iterable[Knobs], target: Target) -> list[Knobs]:
    costs = {knobs: points(work, knobs, target) for knobs in given}
    limit = HOPELESS * min(costs.values(), default=0.0)
    return [knobs for knobs, cost in costs.items() if cost <= limit]


def _axis(names: tuple[str, ...], given: Iterable[Knobs]) -> Axis:
    return Axis(names, tuple(dict.fromkeys(tuple(getattr(knobs, name) for name in names) for knobs in given)))


def size(found: Sequence[Sketch]) -> int:
    """How many knobs there are."""
    return sum(_product(len(axis.values) for axis in sketch.axes) for sketch in found)


def _product(numbers: Iterable[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def names_of(kind: type[Knobs]) -> list[str]:
    return [f.name for f in fields(kind) if f.compare]
