"""A POSIX shell on the other side, and a client here that starts it: what ssh and adb have in common."""

from __future__ import annotations

import re
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from shlex import join, quote
from typing import IO

from perse_compile.devices.device import Device, Follow, silent
from perse_compile.devices.process import hang_up, listen, start
from perse_compile.errors import DeviceError, DeviceLost, DeviceTimeout

STATUS = re.compile(r"perse-status (\d+)")
FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)

# Every script says its status itself: old adb has none of its own, and ssh's 255 could be anybody's.
ASKED = '( {script}\n) 2>&1\ns=$?; echo; echo "perse-status $s"'

# Runs a command as a child, and kills it and its children when stdin ends: on Ctrl-C, timeout, a broken connection.
WATCHED = """cd {work} || {{ echo "perse-status 127" >&2; exit; }}
exec 3<&0
{command} 3<&- </dev/null &
p=$!
{{ while read -r _ <&3; do :; done; kill -KILL -$$ || kill -KILL $p $$; }} >/dev/null 2>&1 &
w=$!
wait $p; s=$?
kill $w 2>/dev/null
echo "perse-status $s" >&2"""


class ShellDevice(Device):
    """Runs scripts there, and executables under a watch."""

    root: str  # the work folder, for a shell there to expand

    @abstractmethod
    def _client(self, script: str) -> list[str]:
        """The command here that runs a script there, as the leader of a process group."""

    @abstractmethod
    def _trouble(self, complaints: Sequence[str]) -> DeviceError | None:
        """What the client's complaints mean, if that is known."""

    @abstractmethod
    def command_line(self, executable: str) -> str:
        """What a person types here to run an executable of the work folder there."""

    def open(self) -> None:
        """Connect, make the work folder, learn where it is. Raises DeviceError."""
        answer = self._ask(
            f'mkdir -p {self.root} && cd {self.root} && echo "work=$(pwd)" && echo "machine=$(uname -m)" &&'
            ' echo "cksum=$(command -v cksum)"'
        )
        found = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
        if not found.get("cksum"):
            raise DeviceError(f"{self.name} has no `cksum`, which every POSIX system has; install coreutils or busybox")
        self.work, self.machine = found["work"], found["machine"]

    def shell(self, script: str, timeout: float = 60.0) -> str:
        return self._ask(f"cd {quote(self.work)} || exit\n{script}", timeout)

    def run(
        self, arguments: Sequence[str], *, output: IO[str], follow: Follow = silent, timeout: float | None = None
    ) -> int:
        return self._watch(arguments, "", output, follow, timeout)

    def _watch(
        self,
        arguments: Sequence[str],
        redirect: str,
        output: IO[str] | None,
        follow: Follow,
        timeout: float | None,
    ) -> int:
        """With `output` None, the client's stdout is listened to as well."""
        statuses, complaints = [], [""]

        def sort(line: str) -> None:
            if match := STATUS.fullmatch(line):
                statuses.append(int(match[1]))
            elif line:
                complaints[:] = [*complaints[-9:], line]
                follow(line)

        executable = arguments[0] if arguments[0].startswith("/") else f"./{arguments[0]}"
        command = join([executable, *arguments[1:]]) + redirect
        script = WATCHED.format(work=quote(self.work), command=command)
        process = start(self._client(script), output=output, stdin=subprocess.PIPE)
        listen(process, sort, timeout, hang_up, f"{executable} on {self.name}")
        if not statuses:
            raise self._trouble(complaints) or self._lost(complaints)
        status = statuses[-1]
        if status in (126, 127):  # the shell's own
            raise DeviceError(f"cannot start {executable} on {self.name}: {complaints[-1]}; push it again")
        return status if status <= 128 else 128 - status

    def _ask(self, script: str, timeout: float = 60.0) -> str:
        """What a script prints, on stderr too. Raises DeviceError; with its last line if the script fails."""
        _, out, complaints = self._call(self._client(ASKED.format(script=script)), timeout)
        *lines, last = out.replace("\r\n", "\n").rstrip("\n").split("\n")
        match = STATUS.fullmatch(last)
        if match is None:
            raise self._trouble([*lines, last, *complaints]) or self._lost(complaints)
        while lines and not lines[-1]:
            lines.pop()
        if match[1] != "0":
            raise self._failed(lines)
        return "\n".join(lines)

    def _call(self, command: list[str], timeout: float) -> tuple[int, str, list[str]]:
        """Status, stdout and lines of stderr of a client. Files, not pipes: it may leave a child behind."""
        with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+") as err:
            try:
                status = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=timeout, check=False,
                    start_new_session=True,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise DeviceTimeout(f"no answer from {self.name} in {timeout:g} s; is it still there?") from error
            out.seek(0), err.seek(0)
            return status, out.read(), err.read().splitlines()

    def _failed(self, lines: Sequence[str]) -> DeviceError:
        said = " ".join(lines)
        if FULL.search(said):
            return DeviceError(
                f"{self.name} is full; free some space there, in {getattr(self, 'work', self.root)} for instance"
                " (nothing there is half-written)"
            )
        return DeviceError(f"{self.name}: {lines[-1] if lines else 'a command failed'}")

    def _lost(self, complaints: Sequence[str]) -> DeviceError:
        last = complaints[-1] if complaints else ""
        said = f" ({last})" if last and not last.startswith("progress ") else ""
        return DeviceLost(
            f"lost the connection to {self.name}{said}; nothing there or here is half-written: reconnect and repeat"
        )
