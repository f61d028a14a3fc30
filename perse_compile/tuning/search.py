"""The search for the best knobs of one task: TVM's MetaSchedule, with our knobs as its space.

Its evolutionary search works on traces of schedules. So each sketch of a task (space.py) is a schedule of a nominal
function that samples every axis with `sample_categorical` and notes it on the root block; no code is made of it.
Traces, mutation, populations, the best so far as parents, and that nothing is proposed twice are MetaSchedule's. Our
own are the mutator (it has none for categories that are no tile sizes), the cost model, and building and running:
its LocalBuilder runs out of time on most candidates that compile in a tenth of a second in process.

The context is made by TVM's constructor in C++: the one in Python first parses the tensor intrinsics of all
accelerators, which takes a minute.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import s_tir, te
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api
from tvm.s_tir.meta_schedule.cost_model import PyCostModel
from tvm.s_tir.meta_schedule.mutator import PyMutator

from perse_compile.building.object_code import tvm_target
from perse_compile.lowering.choices import Knobs
from perse_compile.lowering.workload import Workload
from perse_compile.tuning.learned import Learned
from perse_compile.tuning.space import Sketch

SKETCH = "perse.sketch"
POPULATION, GENERATIONS = 96, 3
RANDOM = 0.15  # share of a batch that the model does not choose
MOST_IN_VAIN = 8  # batches of which everything was known already
PLENTY = 1 << 20  # trials: when to stop is not the search's business


class Search:
    """Proposes knobs for one task and learns what they took."""

    def __init__(self, work: Workload, sketches: Sequence[Sketch], model: Learned, batch: int, seed: int = 1) -> None:
        self.work, self.sketches, self.model = work, sketches, model
        self.costs: dict[Knobs, float] = {}  # all that is known
        self._proposed: list[Any] = []
        self._database = ms.database.MemoryDatabase()
        generator = ms.space_generator.ScheduleFn(
            self._space, sch_rules=[], postprocs=[], mutator_probs={AnotherValue(seed): 1.0}
        )
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION,
            init_min_unmeasured=1,
            genetic_num_iters=GENERATIONS,
            eps_greedy=RANDOM,
        )
        into, silent = tvm_target(model.target), lambda level, file, line, message: None
        self._module = _nominal()
        self._context = _ffi_api.TuneContext(self._module, into, generator, strategy, str(work), 1, seed, silent)
        _ffi_api.TuneContextInitialize(self._context)
        self._workload = self._database.commit_workload(self._module)
        self._context.pre_tuning(
            max_trials=PLENTY,
            num_trials_per_iter=batch,
            design_spaces=self._context.generate_design_space(),
            database=self._database,
            cost_model=Judge(self),
        )

    def propose(self) -> list[Knobs]:
        """A batch of knobs of which nothing is known yet; empty when there are no more."""
        for _ in range(MOST_IN_VAIN):
            self._proposed = list(self._context.generate_measure_candidates() or [])
            new = [knobs for knobs in map(self.read, self._schedules()) if knobs not in self.costs]
            if new or not self._proposed:
                return list(dict.fromkeys(new))
            self.learn({})
        return []

    def learn(self, costs: dict[Knobs, float]) -> None:
        """What knobs took, proposed or not, infinite for a failure. All proposed ones must have been answered."""
        self.costs.update(costs)
        for knobs, cost in costs.items():
            self._remember(knobs, cost)
        if self._proposed:
            results = [self._result(self.costs[self.read(schedule)]) for schedule in self._schedules()]
            self._context.notify_runner_results(self._proposed, results)
            self._proposed = []

    def _schedules(self) -> list[s_tir.Schedule]:
        return [candidate.sch for candidate in self._proposed]

    def _result(self, cost: float) -> Any:
        return ms.runner.RunnerResult([cost], None) if np.isfinite(cost) else ms.runner.RunnerResult(None, "failed")

    def _remember(self, knobs: Knobs, cost: float) -> None:
        """In MetaSchedule's database, where the search finds parents, and what it need not propose."""
        schedule = self._schedule_of(knobs)
        if schedule is not None:
            seconds = [cost if np.isfinite(cost) else 1e9]
            record = ms.database.TuningRecord(schedule.trace, self._workload, seconds, self._context.target, [])
            self._database.commit_tuning_record(record)

    def _schedule_of(self, knobs: Knobs) -> s_tir.Schedule | None:
        for number, sketch in enumerate(self.sketches):
            if (indices := sketch.indices(knobs)) is not None:
                return self._sampled(s_tir.Schedule(self._module), number, indices)
        return None

    def _space(self, sch: s_tir.Schedule) -> list[s_tir.Schedule]:
        return [self._sampled(sch.copy(), number, None) for number in range(len(self.sketches))]

    def _sampled(self, sch: s_tir.Schedule, number: int, indices: tuple[int, ...] | None) -> s_tir.Schedule:
        root = sch.get_sblock("root")
        sch.annotate(root, SKETCH, number)
        for i, axis in enumerate(self.sketches[number].axes):
            count = len(axis.values)
            decision = None if indices is None else indices[i]
            value = sch.sample_categorical(list(range(count)), [1 / count] * count, decision)
            sch.annotate(root, f"perse.axis{i}", value)
        return sch

    def read(self, sch: s_tir.Schedule) -> Knobs:
        """The knobs that a schedule stands for."""
        notes = dict(sch.get(sch.get_sblock("root")).annotations)
        sketch = self.sketches[int(notes[SKETCH])]
        return sketch.knobs([int(notes[f"perse.axis{i}"]) for i in range(len(sketch.axes))])

    def predict(self, candidates: Sequence[Any]) -> NDArray[np.float64]:
        """Scores as MetaSchedule wants them: more is better."""
        return np.exp(-self.model.predict(self.work, [self.read(candidate.sch) for candidate in candidates]))


def _nominal() -> tvm.IRModule:
    """A function to hang the decisions on."""
    given = te.placeholder((8,), name="given")
    func = te.create_prim_func([given, te.compute((8,), lambda i: given[i] + 1.0, name="result")])
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


@derived_object
class AnotherValue(PyMutator):
    """Changes one decision of a trace."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.seed = seed
        self.chance = random.Random(seed)

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing to know."""

    def apply(self, trace: Any, state: int) -> Any:
        choices = [i for i in trace.insts if i.kind.name == "SampleCategorical" and len(i.attrs[0]) > 1]
        if not choices:
            return None
        chosen = self.chance.choice(choices)
        return trace.with_decision(chosen, self.chance.randrange(len(chosen.attrs[0])), remove_postproc=True)

    def clone(self) -> AnotherValue:
        return AnotherValue(self.seed)


@derived_object
class Judge(PyCostModel):
    """The learnt model as MetaSchedule sees it. It is taught by tune.py, all tasks together."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search

    def load(self, path: str) -> None:
        """What is known lies in our database."""

    def save(self, path: str) -> None:
        """What is known lies in our database."""

    def update(self, context: Any, candidates: Any, results: Any) -> None:
        """Done by tune.py."""

    def predict(self, context: Any, candidates: Any) -> NDArray[np.float64]:
        return self.search.predict(candidates)
