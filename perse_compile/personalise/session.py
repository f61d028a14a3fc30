"""The host side of an artifact at work: images are decoded here, all else happens in its executable."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.artifact import Artifact
from perse_compile.devices import Device
from perse_compile.errors import DataError
from perse_compile.personalise.data import Images, read_images
from perse_compile.personalise.picture import picture
from perse_compile.personalise.placing import bring_back_heads

CHANGING = ("rollback", "reset", "exits")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Session:
    """An artifact on a device."""

    artifact: Artifact
    device: Device
    threads: int = 1
    pack: str | None = None  # a named pack instead of the artifact's own heads; it stays on the device

    def classes(self) -> list[str]:
        """The network's, and those that the heads in use have learnt since."""
        if self.artifact.spare_classes == 0:
            return self.artifact.classes
        packs = {pack["name"]: pack["new_classes"] for pack in self.artifact.call(self.device, ["packs"])["packs"]}
        return [*self.artifact.classes, *packs.get(self.pack or "", [])]

    def read(self, data: Path, progress: Progress | None = None, new_classes: Sequence[str] = ()) -> Images:
        """Images and labels under `data`, as the artifact takes them; new classes come after those it has.

        Raises DataError.
        """
        tell = None if progress is None else (lambda done, total: progress("reading images", done, total))
        known = self.classes()
        for name in new_classes:
            if name in known:
                raise DataError(f"there is a class {name!r} already; leave --new-class {name} out to teach it more")
        return read_images(data, self.artifact.input, [*known, *new_classes], tell)

    def evaluate(self, images: Images, progress: Progress | None = None) -> dict[str, Any]:
        """Accuracy and share of samples per exit, mean cost, with the live heads. Raises DataError without labels."""
        if images.labels is None or (images.labels < 0).any():
            raise DataError(f"{images.name} has images without labels; evaluating needs one sub-folder per class")
        with self._files(images.pixels, images.labels) as (pixels, labels):
            return self._call(["evaluate", pixels, "--labels", labels], progress)

    def personalise(
        self,
        images: Images,
        options: dict[str, str],
        progress: Progress | None = None,
        new_classes: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Train the heads on the device; heads.pack is replaced only by better ones, or to correct the camera.

        options: those of `perse personalise` without their dashes; an empty value is that of a flag. New classes are
        those that `read` was given.
        """
        with self._files(images.pixels, images.labels) as (pixels, labels):
            arguments = ["personalise", pixels, *(["--labels", labels] if labels else []), *_words(options)]
            arguments += [word for name in new_classes for word in ("--new-class", name)]
            result = self._call(arguments, progress)
        bring_back_heads(self.artifact, self.device)
        return result

    def estimate(self, images: int, options: dict[str, str]) -> dict[str, Any]:
        """What `personalise` would take with so many images: seconds, core-seconds, memory; by a short probe."""
        return self._call(["estimate", "--images", str(images), *_words(options)])

    def run(self, image: Any, probabilities: bool = False) -> dict[str, Any]:
        """One picture (a path, or what `picture.py` takes): class, exit taken, confidence, milliseconds."""
        with self._files(picture(image, self.artifact.input), None) as (pixels, _):
            return self._call(["run", pixels, *(["--probabilities"] if probabilities else [])])

    def simple(self, command: str, *arguments: str) -> dict[str, Any]:
        """A command that takes no images: info, selftest, bench, rollback, reset."""
        result = self._call([command, *arguments])
        if command in CHANGING:
            bring_back_heads(self.artifact, self.device)
        return result

    def _call(self, arguments: list[str], progress: Progress | None = None) -> dict[str, Any]:
        named = [] if self.pack is None else ["--pack", self.pack]
        return self.artifact.call(self.device, [*arguments, "--threads", str(self.threads), *named], progress)

    @contextmanager
    def _files(self, pixels: NDArray[Any], labels: NDArray[np.int64] | None) -> Iterator[tuple[str, str]]:
        """The arrays as .npy files, for as long as the executable needs them, where it runs."""
        with ExitStack() as stack:
            try:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perse-")))
                np.save(folder / "images.npy", pixels)
                if labels is not None:
                    np.save(folder / "labels.npy", labels.astype(np.int64))
            except OSError as error:
                raise DataError(
                    f"cannot write the images for the artifact: {error}; free some space or set TMPDIR"
                ) from error
            there = stack.enter_context(self.device.lend(folder / "images.npy"))
            yield there, "" if labels is None else stack.enter_context(self.device.lend(folder / "labels.npy"))


def _words(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", value) if word]
