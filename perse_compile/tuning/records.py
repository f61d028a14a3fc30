"""One line of the tuning database: what some knobs took, for which workload, on what."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from functools import lru_cache
from importlib.metadata import version
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from perse_compile import __version__
from perse_compile.errors import TuningError
from perse_compile.lowering.choices import Knobs
from perse_compile.lowering.schedules.conv import ConvKnobs
from perse_compile.lowering.schedules.depthwise import DepthwiseKnobs
from perse_compile.lowering.schedules.elementwise import HeadKnobs
from perse_compile.lowering.workload import Workload
from perse_compile.targets import Target

TEMPLATES = 1  # raised when the same knobs make other code
MEASURED, MODELLED = "measured", "modelled"
KNOBS: dict[str, type[Knobs]] = {"conv": ConvKnobs, "product": ConvKnobs, "head": HeadKnobs}

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """`cost` and `default` (of the default knobs, in the same batch) are in one unit; both None if it failed."""

    workload: Workload
    target: str  # what of a target decides about speed
    knobs: Knobs
    how: str  # measured, or modelled
    where: str  # the device's processor, or the model
    threads: int = 1
    unit: str = "seconds"  # or instructions, or points of the model
    cost: float | None = None
    default: float | None = None
    error: str | None = None
    best: bool = False  # build takes it
    rounds: int = 1  # how often it was measured beside the default

    def line(self) -> str:
        """JSON, without the end of the line."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["workload"] = asdict(self.workload)
        values["knobs"] = knobs_to_json(self.knobs)
        kept = {name: value for name, value in values.items() if value is not None and value is not False}
        return json.dumps({"versions": versions(), **kept}, sort_keys=True, allow_nan=False)


@lru_cache(maxsize=1)
def versions() -> str:
    """What must be the same for knobs to mean the same."""
    return f"perse-compile {__version__}, apache-tvm {version('apache-tvm')}, templates {TEMPLATES}"


def target_key(target: Target) -> str:
    """The fields of a target that decide which code is made; not its name."""
    architecture = target.mtriple.partition("-")[0]
    features = "".join(f" {feature}" for feature in target.mattr)
    return f"{architecture} {target.mcpu}{features}, {target.registers} registers of {target.vector_bytes} bytes"


def knobs_of(family: str) -> type[Knobs]:
    return KNOBS.get(family, DepthwiseKnobs)


def knobs_to_json(knobs: Knobs) -> dict[str, int | bool]:
    return {f.name: getattr(knobs, f.name) for f in fields(knobs) if f.compare}


def parse(line: str) -> Record | None:
    """A record, or None if it is of other versions. Raises TuningError that says what is wrong with the line."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise TuningError("is not JSON") from error
    if not isinstance(values, dict) or not isinstance(values.get("versions"), str):
        raise TuningError("is no record of tuning")
    if values.pop("versions") != versions():
        return None
    work = _made(Workload, values.pop("workload", None), "the workload")
    knobs = _made(knobs_of(work.family), values.pop("knobs", None), "the knobs")
    record = _made(Record, {**values, "workload": work, "knobs": knobs}, "the record")
    if record.how not in (MEASURED, MODELLED):
        raise TuningError(f"says {record.how!r}, which is neither {MEASURED} nor {MODELLED}")
    return record


def _made(kind: type[T], values: object, what: str) -> T:
    """A dataclass from JSON, every field checked."""
    if not isinstance(values, dict):
        raise TuningError(f"lacks {what}")
    types = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    if missing := sorted(needed - set(values)):
        raise TuningError(f"lacks {missing[0]!r} in {what}")
    known = {}
    for name, value in values.items():
        if name not in types or not _fits(value, types[name]):
            raise TuningError(f"has {name!r} = {value!r} in {what}")
        known[name] = tuple(value) if isinstance(value, list) else value
    return kind(**known)


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        whole = isinstance(value, list) and (inner[-1] is ... or len(value) == len(inner))
        return whole and all(type(item) is inner[0] for item in value)  # type: ignore[attr-defined]
    if isinstance(kind, UnionType):
        return any(_fits(value, option) for option in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind or (kind in (Workload, *KNOBS.values(), DepthwiseKnobs) and isinstance(value, kind))
