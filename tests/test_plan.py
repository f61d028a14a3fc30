"""The arena: buffers alive together lie apart, in hardly more memory than they take."""

from __future__ import annotations

import random

import pytest

from perse_compile.lowering.plan import ALIGNMENT, Buffer, place


def buffers(seed: int) -> list[Buffer]:
    """As a network's: each written at its step and read for a few more, sizes of all kinds."""
    chance = random.Random(seed)
    found = []
    for step in range(60):
        last = min(60, step + chance.choice((1, 1, 1, 2, 3, 9)))
        found.append(Buffer(chance.choice((4, 100, 4096, 40_000, 250_000)) * chance.randrange(1, 5), step, last))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_buffers_alive_together_lie_apart(seed: int) -> None:
    some, again = buffers(seed), buffers(seed)
    live = max(sum(b.size for b in some if b.first <= t <= b.last) for t in range(61))
    arena = place(some, live)
    for i, a in enumerate(some):
        assert a.offset % ALIGNMENT == 0 and 0 <= a.offset <= arena - a.size
        for b in some[i + 1 :]:
            together = a.first <= b.last and b.first <= a.last
            assert not together or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    assert live <= arena <= 1.1 * live + len(some) * ALIGNMENT
    assert place(again, live) == arena and [b.offset for b in again] == [b.offset for b in some]


def test_few_buffers() -> None:
    assert place([]) == 0
    one = Buffer(10, 0, 1)
    assert place([one]) == ALIGNMENT and one.offset == 0
