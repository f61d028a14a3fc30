"""What every device can do: take files, run executables, give files back, say what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from perse_compile.devices.describe import SCRIPT, Description, read_description

Tell = Callable[[int, int], None]  # bytes done, bytes in all
Follow = Callable[[str], None]  # a line of stderr


def silent(*_: object) -> None:
    """For those who do not want to be told."""


class Device(ABC):
    """Where executables run. Relative paths are those of a work folder there. A context manager, too."""

    name: str  # as the user wrote it, complete
    kind: str  # local, emulator, ssh, adb
    work: str  # the work folder, absolute
    machine: str  # `uname -m` of what it runs

    @abstractmethod
    def push(self, source: Path, to: str, tell: Tell = silent) -> None:
        """A file or a folder to a path there. Files with the same checksum there stay; others are replaced in one
        step each. Raises DeviceError: unreadable here, full or lost there."""

    @abstractmethod
    def pull(self, source: str, to: Path) -> None:
        """The other way, file by file in one step each. Raises DeviceError."""

    @abstractmethod
    def run(
        self, arguments: Sequence[str], *, output: IO[str], follow: Follow = silent, timeout: float | None = None
    ) -> int:
        """Start an executable, relative to the work folder or absolute, in the work folder.

        Its stdout goes to the file `output`, every line of its stderr to `follow` as it comes. Gives its exit status,
        or minus the signal that ended it. Raises DeviceTimeout after `timeout` seconds; then, as on Ctrl-C and when
        the connection breaks, the executable and its children are killed. Raises DeviceError if it cannot start.
        """

    @abstractmethod
    def shell(self, script: str, timeout: float = 60.0) -> str:
        """What a POSIX shell in the work folder prints. Raises DeviceError with its last line when it fails."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """A file or folder in the work folder, if it is there."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give up the connection; files there stay."""

    @abstractmethod
    def home(self, folder: Path) -> str:
        """Where a folder of this machine lies for executables there: itself, or its own folder in the work folder."""

    @abstractmethod
    def lend(self, source: Path) -> AbstractContextManager[str]:
        """A file for as long as an executable there needs it; gives its path there. Raises DeviceError."""

    def describe(self) -> Description:
        """By what Linux tells in /proc."""
        return read_description(self.shell(SCRIPT))

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
