"""People come to an artifact one after the other; each leaves a record of what it learnt and what that was worth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from perse_compile.artifact import Artifact
from perse_compile.devices import LocalDevice
from perse_compile.errors import DeviceError
from perse_compile.manifest import BACKBONE
from perse_compile.personalise.data import UNKNOWN, Images
from perse_compile.personalise.session import Session
from perse_compile.personalise.shifts import Shift
from perse_compile.personalise.users import Sizes, User, seen_by, simulate
from perse_compile.study import costs
from perse_compile.study.figures import figures
from perse_compile.study.plan import TORCH, Plan, Trial
from perse_compile.study.records import Records
from perse_compile.study.watch import Observation, link_programs, watch

REFUSED = ("too few samples", "all samples are of one class")  # what the artifact may say instead of learning
Tell = Callable[[str, int, int], None]


@dataclass
class Replay:
    """The artifact, and what it is tried on. The artifact's own folder stays as it is."""

    artifact: Artifact
    program: Path | None  # the .perse it was built from; what learns in PyTorch needs it
    images: Images
    plan: Plan
    records: Records
    work: Path = field(init=False)  # where `watch` and `peak` are, while it runs
    _drawn: dict[int, list[User]] = field(default_factory=dict)  # by seed

    def run(self, tell: Tell) -> bool:
        """Do what is not yet recorded. False when Ctrl-C stopped it. Raises DataError, DeviceError, BuildError."""
        trials = list(self.plan.trials())
        try:
            with ExitStack() as stack:
                self.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perse-study-")))
                link_programs(self.artifact, self.work)
                for done, trial in enumerate(trials):
                    tell("trials", done, len(trials))
                    if trial.key not in self.records:
                        self.records.add({**vars(trial), **self._do(trial)})
                tell("trials", len(trials), len(trials))
        except KeyboardInterrupt:
            return False
        return True

    def _do(self, trial: Trial) -> dict[str, Any]:
        user = self._user(trial.seed, trial.user)
        if trial.kind == "user":
            return self._meet(user)
        assert trial.samples is not None and trial.labels is not None  # all others have both
        train = seen_by(user, self.images, "train", samples=trial.samples, labels=trial.labels)
        if trial.kind == "heads":
            return self._personalise(trial, user, train)
        if trial.kind == "fast":
            return self._personalise(trial, user, train, {"against": "factory"})
        if trial.kind == "hard":
            return self._personalise(trial, user, self._answered(train))
        with tempfile.TemporaryDirectory(prefix="perse-study-") as folder:
            if trial.kind in TORCH:
                assert self.program is not None  # the driver has looked
                test = seen_by(user, self.images, "test")
                return costs.in_torch(self.program, trial, train, test, self._threads, Path(folder))
            return costs.on_device(self.artifact, self.work / "peak", self._own(folder), train, self._threads)

    # --- one person -----------------------------------------------------------------------------------------

    def _meet(self, user: User) -> dict[str, Any]:
        """Who it is, and what the network as built is worth to them; also without their camera."""
        clean = self._watch_generic(seen_by(replace(user, shift=Shift()), self.images, "test"))
        return {
            "name": user.name,
            "shift": str(user.shift),
            "classes": [self.images.class_names[label] for label in user.classes],
            "clean": float((clean.labels[:, -1] == clean.truth).mean()),
            "generic": figures(self._watch_generic(seen_by(user, self.images, "test"))),
        }

    def _personalise(
        self, trial: Trial, user: User, train: Images, options: dict[str, str] | None = None
    ) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="perse-study-") as folder:
            own = self._own(folder)
            session = Session(self.artifact, self._device, self._threads)
            try:
                told = session.personalise(
                    train, {"artifact": str(own), "seed": str(trial.seed + 1), **(options or {})}
                )
            except DeviceError as error:
                if not any(text in str(error) for text in REFUSED):
                    raise
                told = {"live": False, "verdict": str(error), "teacher": "", "seconds": 0.0}
            row = {name: told[name] for name in ("live", "verdict", "teacher", "seconds")}
            if not told["live"]:
                return {**row, "own": self.records.rows["user", trial.seed, trial.user, None, None]["generic"]}
            return {**row, "own": figures(self._watch(own, seen_by(user, self.images, "test")))}

    def _answered(self, train: Images) -> Images:
        """What has no label gets the one that the network as built answers."""
        unknown = np.full(len(train), UNKNOWN, np.int64)
        known = unknown if train.labels is None else train.labels
        answers = self._watch_generic(train).labels[:, -1]
        return replace(train, labels=np.where(known == UNKNOWN, answers, known))

    # --- the artifact ---------------------------------------------------------------------------------------

    def _own(self, folder: str) -> Path:
        """A folder for somebody's heads: the backbone is only linked to."""
        (Path(folder) / BACKBONE).symlink_to((self.artifact.folder / BACKBONE).resolve())
        return Path(folder)

    def _watch(self, heads: Path, images: Images) -> Observation:
        truth = np.full(len(images), UNKNOWN, np.int64) if images.labels is None else images.labels
        return watch(self.work / "watch", self._device, heads, images.pixels, truth, self._threads)

    def _watch_generic(self, images: Images) -> Observation:
        with tempfile.TemporaryDirectory(prefix="perse-study-") as folder:
            return self._watch(self._own(folder), images)

    @property
    def _device(self) -> LocalDevice:
        return LocalDevice()

    @property
    def _threads(self) -> int:
        return self.plan.threads

    def _user(self, seed: int, number: int) -> User:
        if seed not in self._drawn:
            sizes = Sizes(train=self.plan.most, test=self.plan.test)
            self._drawn[seed] = simulate(self.images, self.plan.users, self.plan.drawn_from, seed=seed, sizes=sizes)
        return self._drawn[seed][number]
