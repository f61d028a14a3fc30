"""What the measuring program says of a candidate, one line of JSON, as a measurement."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from perse_compile.tuning.batch import Batch
from perse_compile.tuning.candidate import Measurement

TOLERANCE = 1e-3  # of a slice of the result, relative to its norm
Sums = tuple[tuple[float, ...], tuple[float, ...]]  # of the slices of a result, and their norms


def read_answers(batch: Batch, lines: Iterable[str], results: dict[str, Sums]) -> dict[int, Measurement]:
    """By number, with those that do not compile; a line that was cut off counts for nothing.

    `results`: by task what its first candidate that worked gave; added to, and compared with.
    """
    measured = {number: Measurement(error=error) for number, error in batch.failed.items()}
    for line in lines:
        if line.endswith("\n"):
            answer = json.loads(line)
            measured[answer["candidate"]] = _measurement(batch, answer, results)
    return measured


def _measurement(batch: Batch, answer: dict[str, Any], results: dict[str, Sums]) -> Measurement:
    if "error" in answer:
        return Measurement(error=answer["error"])
    sums = tuple(answer["sums"]), tuple(answer["norms"])
    known = results.setdefault(batch.candidates[answer["candidate"]].task, sums)
    return Measurement(tuple(answer["seconds"])) if _agree(known, sums) else Measurement(error="wrong result")


def _agree(known: Sums, sums: Sums) -> bool:
    """Of each slice the sum with signs by chance: a wrong element changes it by its own size, rounding by little."""
    scale = max(*known[1], 1e-30)
    return len(known[0]) == len(sums[0]) and all(
        math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE * (norm + 0.01 * scale))
        for a, b, norm in zip(known[0], sums[0], known[1], strict=True)
    )
