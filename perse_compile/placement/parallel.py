"""Work on all cores: one thread of torch for each worker, because threads that wait for each other lose more."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from perse_compile.personalise.learning import one_thread

WORKERS = min(4, os.cpu_count() or 1)
Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(do: Callable[[Item], Result], items: Sequence[Item], tell: Callable[[int, int], None]) -> list[Result]:
    """Results in the order of the items. After Ctrl-C nothing new is begun."""
    results: list[Result] = []
    with one_thread():
        pool = ThreadPoolExecutor(WORKERS)
        try:
            for result in pool.map(do, items):
                results.append(result)
                tell(len(results), len(items))
        finally:
            pool.shutdown(cancel_futures=True)
    return results
