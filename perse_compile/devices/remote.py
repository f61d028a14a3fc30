"""Files to and from a shell: sent only where `cksum` differs, checked there, put in place by `mv`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

from perse_compile.devices.cksum import cksum
from perse_compile.devices.describe import folder_name
from perse_compile.devices.device import Tell, silent
from perse_compile.devices.files import files_in, written_atomically
from perse_compile.devices.shell import ShellDevice
from perse_compile.errors import DeviceError, DeviceLost

BATCH = 16  # files in one question; old adb takes 4 KB of script
CHECKSUMS = 'for f in {paths}; do [ ! -f "$f" ] || (set -- $(cksum <"$f"); echo "$1 $2 $f"); done'
SETTLE = """p={part}; set -- $(cksum <"$p")
[ "$1 $2" = "{sum}" ] || {{ echo "$p arrived damaged; push again"; exit 1; }}
chmod {mode} "$p" && mv -f "$p" {to}"""


class RemoteDevice(ShellDevice):
    """Pushes and pulls by what a client gives: bytes of one file, there or back."""

    @abstractmethod
    def _send(self, source: Path, to: str, tell: Tell) -> None:
        """Bytes of a file to a path in the work folder. Raises DeviceError."""

    @abstractmethod
    def _fetch(self, source: str, to: Path) -> None:
        """The other way."""

    def push(self, source: Path, to: str, tell: Tell = silent) -> None:
        with _reading(source):
            files = files_in(source, to)
            sums = {there: cksum(path) for there, path in files.items()}
            known = self.checksums(list(files))
            missing = [there for there in files if known.get(there) != sums[there]]
            done, total = 0, sum(files[there].stat().st_size for there in missing)
            for there in missing:
                size, before = files[there].stat().st_size, done
                self._put(files[there], there, sums[there], lambda sent, _, before=before: tell(before + sent, total))  # type: ignore[misc]
                done += size

    def pull(self, source: str, to: Path) -> None:
        listed = self.shell(f"[ ! -d {quote(source)} ] || (cd {quote(source)} && find . -type f)").splitlines()
        pairs = {f"{source}/{line[2:]}": to / line[2:] for line in listed} or {source: to}
        known = self.checksums(list(pairs))
        for there, path in pairs.items():
            if there not in known:
                raise DeviceError(f"{self.name} has no file {self.work}/{there}")
            self._get(there, path, known[there])

    def home(self, folder: Path) -> str:
        return folder_name(folder)

    @contextmanager
    def lend(self, source: Path) -> Iterator[str]:
        to = f"lent/{folder_name(source)}"
        self.push(source, to)
        try:
            yield f"{self.work}/{to}"
        finally:
            with suppress(DeviceError):  # the next error is the one to tell; a lent file left there harms nobody
                self.remove(to)

    def remove(self, path: str) -> None:
        self.shell(f"rm -rf {quote(path)}")

    def checksums(self, paths: Sequence[str]) -> dict[str, str]:
        """`CHECKSUM SIZE` of every path that is a file there."""
        found = {}
        for start in range(0, len(paths), BATCH):
            batch = " ".join(map(quote, paths[start : start + BATCH]))
            for line in self.shell(CHECKSUMS.format(paths=batch), timeout=600).splitlines():
                crc, size, path = line.split(" ", 2)
                found[path] = f"{crc} {size}"
        return found

    def _put(self, source: Path, to: str, checksum: str, tell: Tell) -> None:
        folder, _, name = to.rpartition("/")
        part = f"{folder}/.{name}.part" if folder else f".{name}.part"
        mode = "755" if os.access(source, os.X_OK) else "644"
        try:
            self.shell(f"mkdir -p {quote(folder or '.')}")
            self._send(source, part, tell)
            settle = SETTLE.format(part=quote(part), to=quote(to), sum=checksum, mode=mode)
            self.shell(settle, timeout=600)
        except DeviceLost:
            raise  # nobody to clean up there; the next push of this file overwrites the part
        except (DeviceError, OSError, KeyboardInterrupt):
            with suppress(DeviceError):
                self.remove(part)
            raise

    def _get(self, source: str, to: Path, checksum: str) -> None:
        with written_atomically(to) as temporary:
            self._fetch(source, temporary)
            if cksum(temporary) != checksum:
                raise DeviceError(f"{to} arrived damaged from {self.name}, or {source} is being written; pull again")


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"cannot read {error.filename or source}: {error.strerror}; nothing is half-pushed"
        ) from error
