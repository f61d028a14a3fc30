"""The distinct workloads of a program, and the kernels that compute one of them with any knobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import fx

from perse_compile.exit_nodes import feature_nodes
from perse_compile.lowering.arrangement import Arrangement, arrange, note_fused_in
from perse_compile.lowering.choices import Choices, Chosen, Knobs, default
from perse_compile.lowering.fuse import Group
from perse_compile.lowering.heads import lower_head
from perse_compile.lowering.kernels import lower_group, margins
from perse_compile.lowering.kernels.scope import KernelCall, Stored
from perse_compile.lowering.module import lower_groups, weights_of
from perse_compile.lowering.values import CHANNELS_LAST
from perse_compile.lowering.workload import Workload
from perse_compile.program import Program
from perse_compile.shapes import annotate_shapes
from perse_compile.targets import Target
from perse_compile.tuning.candidate import Candidate


@dataclass
class Place:
    """Where a workload stands in a network: its nodes, and what they find when their turn comes."""

    group: Group
    arrangement: Arrangement  # of its stage
    values: dict[str, Stored]
    weights: Any

    def calls(self, choices: Choices, known: Choices) -> tuple[list[KernelCall], tuple[Stored, ...]]:
        """Its kernels alone, and the images they read, which lie as they would in a network built with `choices`."""
        values, images = dict(self.values), []
        inputs = {node for member in self.group.nodes for node in member.all_input_nodes}
        scales = [self.arrangement.scales[node] for node in inputs if node in self.arrangement.scales]
        for node in (inputs - set(self.arrangement.scales)) | {node for pair in scales for node in pair}:
            if node.name not in values:
                continue
            stored = values[node.name]
            if stored.order == CHANNELS_LAST:
                as_it_was = margins.with_margins(node.name, stored.shape, margins.wanted(node, known))
                if stored == as_it_was:
                    stored = margins.with_margins(node.name, stored.shape, margins.wanted(node, choices))
            values[node.name] = stored
            images.append(stored)
        calls = lower_group(self.group, values, self.weights, choices, self._alone())
        return calls, tuple(images)

    def _alone(self) -> Arrangement:
        """Where its result lies in an image with others, which here is the result's own."""
        last = self.group.last
        part = self.arrangement.parts.get(last)
        own = {} if part is None else {last: replace(part, image=replace(part.image, name=last.name))}
        return replace(self.arrangement, parts=own)


@dataclass
class Task:
    """One workload and how often it runs for one image."""

    work: Workload
    target: Target
    place: Place | None  # None for a head, which is the same everywhere
    known: Choices = field(repr=False)
    count: int = 1

    @property
    def default(self) -> Knobs:
        return default(self.work, self.target)

    def candidate(self, knobs: Knobs) -> Candidate:
        """The kernels that compute this workload with these knobs. The place keeps everything else as by default."""
        choices = Choices(self.target, lambda work: Chosen(knobs) if work == self.work else None)
        if self.place is None:
            calls, _ = lower_head(self.work.in_channels, self.work.out_channels, choices)
            return Candidate(calls, str(self.work))
        calls, images = self.place.calls(choices, self.known)
        return Candidate(calls, f"{self.work} {self.place.group.nodes[0].name}", images)


def tasks_of(program: Program, target: Target) -> list[Task]:
    """One task for each distinct workload that has knobs, in order of first use."""
    tasks: dict[Workload, Task] = {}
    for work, place, known in _places(program, Choices(target)):
        if work in tasks:
            tasks[work].count += 1
        else:
            tasks[work] = Task(work, target, place, known)
    return list(tasks.values())


def _places(program: Program, choices: Choices) -> Iterator[tuple[Workload, Place | None, Choices]]:
    annotate_shapes(program)
    note_fused_in(program)
    weights, spec = weights_of(program.module), program.input
    first = next(node for node in program.module.graph.nodes if node.op == "placeholder")
    around = margins.wanted(first, choices)
    values = {first.name: margins.with_margins(first.name, (1, spec.height, spec.width, spec.channels), around)}
    for stage, exit in zip(program.stages, program.exits, strict=True):
        inside, tap = {stage.input: values[stage.input]}, program.node(stage.output)
        yield from _in_line([program.node(name) for name in stage.nodes], tap, inside, weights, choices)
        values[tap.name] = inside[tap.name]
        if exit.projected:
            nodes = feature_nodes(program, exit)
            yield from _in_line(nodes, nodes[-1], {tap.name: inside[tap.name]}, weights, choices)
        lower_head(exit.features, program.outputs, choices)
        assert choices.last is not None
        yield choices.last, None, choices


def _in_line(
    nodes: list[fx.Node], last: fx.Node, inside: dict[str, Stored], weights: Any, choices: Choices
) -> Iterator[tuple[Workload, Place, Choices]]:
    """Of a stage, or of what lies between a tap and its head; `inside` gains its values."""
    before, choices.last = dict(inside), None
    arrangement = arrange(nodes, {last}, partial(margins.wanted, choices=choices))
    for group, _ in lower_groups(arrangement, inside, weights, choices):
        if choices.last is not None:
            yield choices.last, Place(group, arrangement, before, weights), choices
        choices.last, before = None, dict(inside)
