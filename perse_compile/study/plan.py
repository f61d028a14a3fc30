"""What a study replays, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perse_compile.errors import DataError
from perse_compile.personalise.users import POPULATIONS, Population

TORCH = ("full", "no-cache")  # baselines that learn in PyTorch
BASELINES = (*TORCH, "hard")  # those that take time
EPOCHS = 10  # of what costs are compared


@dataclass(frozen=True)
class Trial:
    """One thing to do, and the key of its record."""

    kind: str  # user, heads, fast, cost, or a baseline
    seed: int
    user: int
    samples: int | None = None
    labels: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.kind, self.seed, self.user, self.samples, self.labels)


@dataclass(frozen=True)
class Plan:
    """Raises DataError for what cannot be replayed."""

    population: str = "report"
    users: int = 20  # per seed
    seeds: int = 3
    samples: tuple[int, ...] = (300, 100, 30)
    labels: tuple[float, ...] = (1.0, 0.5, 0.1, 0.05, 0.0)  # shares
    test: int = 150  # images per user
    baselines: tuple[str, ...] = BASELINES
    baseline_users: int = 5  # of the first seed
    threads: int = 1

    def __post_init__(self) -> None:
        wrong = [name for name in self.baselines if name not in BASELINES]
        if wrong:
            raise DataError(f"unknown baseline {wrong[0]!r}; known: {', '.join(BASELINES)}, none")
        if self.population not in POPULATIONS:
            raise DataError(f"unknown population {self.population!r}; known: {', '.join(POPULATIONS)}")
        if not self.samples or min(self.samples) < 1:
            raise DataError("samples: give numbers of images from 1, such as 300,100,30")
        if not self.labels or not all(0 <= share <= 1 for share in self.labels):
            raise DataError("labels: give percentages between 0 and 100, such as 100,10,0")

    @property
    def drawn_from(self) -> Population:
        return POPULATIONS[self.population]

    @property
    def most(self) -> int:
        return max(self.samples)

    def identity(self) -> dict[str, Any]:
        """What may not change while a study is under way; whatever else does, more is done, or less shown."""
        return {"population": self.population, "train": self.most, "test": self.test, "threads": self.threads}

    def settings(self) -> list[tuple[int, float]]:
        """(samples, share of labels): every share with the most samples, the first and the last with fewer."""
        most = [(self.most, share) for share in self.labels]
        fewer = sorted(set(self.samples) - {self.most}, reverse=True)
        return most + [(count, share) for count in fewer for share in dict.fromkeys((self.labels[0], self.labels[-1]))]

    def trials(self) -> Iterator[Trial]:
        """In order. Trials of one user follow each other."""
        for seed in range(self.seeds):
            for user in range(self.users):
                yield Trial("user", seed, user)
                for samples, labels in self.settings():
                    yield Trial("heads", seed, user, samples, labels)
                    if samples == self.most and labels > 0:  # without labels nothing tells how good the network was
                        yield Trial("fast", seed, user, samples, labels)
                if seed == 0 and user < self.baseline_users:
                    yield from self._compared(seed, user)

    def _compared(self, seed: int, user: int) -> Iterator[Trial]:
        """Costs with every sample labelled; baselines with what they can use."""
        yield Trial("cost", seed, user, self.most, 1.0)
        for labels in self.labels:
            if "full" in self.baselines and labels > 0:
                yield Trial("full", seed, user, self.most, labels)
            if "hard" in self.baselines and labels < 1:
                yield Trial("hard", seed, user, self.most, labels)
        if "no-cache" in self.baselines:
            yield Trial("no-cache", seed, user, self.most, 1.0)
