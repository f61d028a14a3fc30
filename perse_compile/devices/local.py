"""This machine as a device, and an emulator on it."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

from perse_compile.devices.cksum import cksum
from perse_compile.devices.describe import Description
from perse_compile.devices.device import Device, Follow, Tell, silent
from perse_compile.devices.files import files_in, written_atomically
from perse_compile.devices.process import kill, listen, start
from perse_compile.errors import DeviceError

EMULATOR_HINT = "install it with `apt-get install qemu-user-static`"


def runs_here(machine: str) -> bool:
    """Whether this machine's processor runs executables for `machine` (`uname -m`)."""
    return platform.system() == "Linux" and platform.machine() == machine


def emulator_path(emulator: str) -> str | None:
    return shutil.which(emulator)


@dataclass
class LocalDevice(Device):
    """How to start an executable here: as it is, or with words before it. Its work folder goes when it does."""

    name: str = "local"  # or "emulator"
    prefix: tuple[str, ...] = ()
    machine: str = field(default_factory=platform.machine)

    def __post_init__(self) -> None:
        self.kind = self.name

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        try:
            return tempfile.TemporaryDirectory(prefix="perse-device-")
        except OSError as error:
            raise DeviceError(f"cannot make a work folder: {error}; free some space or set TMPDIR") from error

    @property
    def work(self) -> str:  # type: ignore[override]
        return self._scratch.name

    def push(self, source: Path, to: str, tell: Tell = silent) -> None:
        _copy_all(source, f"{self.work}/{to}", tell)

    def pull(self, source: str, to: Path) -> None:
        _copy_all(Path(self.work) / source, str(to), silent)

    def run(
        self, arguments: Sequence[str], *, output: IO[str], follow: Follow = silent, timeout: float | None = None
    ) -> int:
        executable = arguments[0] if Path(arguments[0]).is_absolute() else str(Path(self.work) / arguments[0])
        process = start([*self.prefix, executable, *arguments[1:]], output=output)
        return listen(process, follow, timeout, kill, executable)

    def shell(self, script: str, timeout: float = 60.0) -> str:
        with tempfile.TemporaryFile("w+") as answer:
            process = start(["sh", "-c", f"cd '{self.work}'\n{script}"], output=answer)
            complaints: list[str] = []
            status = listen(process, complaints.append, timeout, kill, "a command")
            answer.seek(0)
            if status != 0:
                raise DeviceError((complaints or [f"a command failed with status {status}"])[-1])
            return answer.read()

    def remove(self, path: str) -> None:
        there = Path(self.work) / path
        shutil.rmtree(there, ignore_errors=True) if there.is_dir() else there.unlink(missing_ok=True)

    def close(self) -> None:
        if "_scratch" in self.__dict__:
            self._scratch.cleanup()
            del self.__dict__["_scratch"]

    def home(self, folder: Path) -> str:
        return str(folder.resolve())

    @contextmanager
    def lend(self, source: Path) -> Iterator[str]:
        """Executables here can read it where it is."""
        yield str(source)

    def describe(self) -> Description:
        """Under the emulator, the cores and the memory are this machine's."""
        found = super().describe()
        if self.kind == "local":
            return found
        return Description(self.machine, found.system, found.cores, found.memory_bytes, " ".join(self.prefix))


def _copy_all(source: Path, to: str, tell: Tell) -> None:
    try:
        files = {Path(there): path for there, path in files_in(source, to).items()}
        files = {there: path for there, path in files.items() if not there.exists() or cksum(there) != cksum(path)}
        done, total = 0, sum(path.stat().st_size for path in files.values())
        for there, path in files.items():
            with written_atomically(there) as temporary:
                shutil.copy(path, temporary)
            done += path.stat().st_size
            tell(done, total)
    except OSError as error:
        raise DeviceError(
            f"cannot copy {error.filename or source}: {error.strerror}; nothing is half-copied"
        ) from error
