"""An Android device on a cable or the network, reached by the `adb` client; nothing is installed there."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import IO

from perse_compile.devices.device import Follow, Tell, silent
from perse_compile.devices.remote import RemoteDevice
from perse_compile.errors import DeviceError, DeviceLost

CLIENT_HINT = "install Android's platform tools, or `apt-get install adb`"
INTERVAL = 0.5  # seconds between two looks at what has arrived
SPEED = 200_000  # bytes a second that a transfer makes at least
STATES = {
    "unauthorized": "does not trust this computer; unlock it and allow USB debugging",
    "authorizing": "is being asked for permission; unlock it and allow USB debugging",
    "offline": "is offline; plug it in again, or `adb kill-server` and repeat",
    "no permissions": "may not be opened by this user; see the udev rules of Android's documentation",
    "recovery": "is in recovery mode; start Android on it",
    "sideload": "is in sideload mode; start Android on it",
    "bootloader": "is in its bootloader; start Android on it",
}
TROUBLE = re.compile(  # what adb says when the device is gone
    r"device .*(not found|offline|unauthorized)|no devices/emulators|protocol fault|no response|connection reset"
    r"|error: closed|failed to read copy response|couldn't read from device",
    re.IGNORECASE,
)


class AdbDevice(RemoteDevice):
    """adb, or adb:SERIAL where several are connected."""

    kind = "adb"
    root = "/data/local/tmp/perse-compile"  # Android starts executables from nowhere else

    def __init__(self, name: str) -> None:
        """Chooses the device. Raises DeviceError."""
        if shutil.which("adb") is None:
            raise DeviceError(f"adb is not installed; {CLIENT_HINT}")
        self.name = name
        self._serial = self._chosen(name.partition(":")[2])
        self.name = f"adb:{self._serial}"
        self.open()

    def _chosen(self, wanted: str) -> str:
        _, out, complaints = self._call(["adb", "devices"], 60)
        _, headline, listed = out.partition("List of devices attached")
        if not headline:
            raise DeviceError(f"adb does not work: {(complaints or ['it says nothing'])[-1]}")
        found = dict(re.findall(r"^(\S+)[ \t]+(\S.*?)\s*$", listed, re.MULTILINE))
        names = ", ".join(found)
        if not found:
            raise DeviceError("adb sees no device; connect one, with USB debugging on in its developer options")
        if wanted and wanted not in found:
            raise DeviceError(f"adb sees no device {wanted}; it sees {names}")
        if not wanted and len(found) > 1:
            raise DeviceError(f"adb sees several devices: {names}; say which, like --device adb:{next(iter(found))}")
        serial = wanted or next(iter(found))
        for state, meaning in STATES.items():
            if found[serial].startswith(state):
                raise DeviceError(f"adb:{serial} {meaning}")
        return serial

    def _client(self, script: str) -> list[str]:
        return ["adb", "-s", self._serial, "shell", script]

    def command_line(self, executable: str) -> str:
        return f"adb -s {self._serial} shell {quote(f'{self.work}/{executable}')}"

    def run(
        self, arguments: Sequence[str], *, output: IO[str], follow: Follow = silent, timeout: float | None = None
    ) -> int:
        """By way of a file there: before Android 7 a shell's stdout and stderr come as one."""
        there = f"output-{secrets.token_hex(4)}"
        try:
            status = self._watch(arguments, f" >{there}", None, follow, timeout)
            with tempfile.TemporaryDirectory(prefix="perse-") as folder:
                self.pull(there, Path(folder) / "output")
                output.write((Path(folder) / "output").read_text(errors="replace"))
        finally:
            with contextlib.suppress(DeviceLost):
                self.remove(there)
        return status

    def _send(self, source: Path, to: str, tell: Tell) -> None:
        """What has arrived is looked up meanwhile: adb itself shows that to terminals only."""
        size, over = source.stat().st_size, threading.Event()
        counting = threading.Thread(target=self._count, args=(to, size, tell, over), daemon=True)
        counting.start()
        try:
            self._transfer("push", str(source), f"{self.work}/{to}", size)
        finally:
            over.set()
            counting.join()
        tell(size, size)

    def _count(self, path: str, size: int, tell: Tell, over: threading.Event) -> None:
        with contextlib.suppress(DeviceError):  # the transfer tells what is wrong
            while not over.wait(INTERVAL):
                tell(int(self.shell(f"wc -c <{quote(path)} || echo 0").split()[-1]), size)

    def _fetch(self, source: str, to: Path) -> None:
        size = int(self.checksums([source])[source].split()[1])
        self._transfer("pull", f"{self.work}/{source}", str(to), size)

    def _transfer(self, how: str, source: str, to: str, size: int) -> None:
        """Old versions say what is wrong on stdout, new ones on stderr."""
        command = ["adb", "-s", self._serial, how, source, to]
        status, out, complaints = self._call(command, 60 + size / SPEED)
        if status != 0:
            lines = [*out.splitlines(), *complaints]
            raise self._trouble(lines) or self._failed(lines)

    def _trouble(self, complaints: Sequence[str]) -> DeviceError | None:
        said = [line for line in complaints if TROUBLE.search(line)]
        return self._lost(said[-1:]) if said else None
