"""A device reached by the system's `ssh`: nothing is installed there, one connection serves a session."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from perse_compile.devices.device import Tell
from perse_compile.devices.remote import RemoteDevice
from perse_compile.errors import DeviceError, DeviceLost

ADDRESS = re.compile(r"ssh://(?:([\w.][\w.@-]*)@)?([\w.][\w.-]*|\[[\w:.%]+\])(?::(\d+))?/?")
CLIENT_HINT = "install it with `apt-get install openssh-client`"
CONNECT_SECONDS = 10
CHUNK = 1 << 18
OPTIONS = ("BatchMode=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=ERROR")
SHARED = ("ControlMaster=auto", "ControlPersist=60")

# What ssh says, and what that means: the first that fits. {name}, {by_hand}, {host} are filled in.
TROUBLE = (
    ("could not resolve hostname", "unknown host {host}; check the name, or give the address"),
    ("connection refused", "{name} refused the connection; is sshd running there, and is the port right?"),
    ("timed out|timeout", "no answer from {name} in time; is it on, and on this network?"),
    ("no route to host|network is unreachable", "{name} cannot be reached from this network"),
    ("host identification has changed|host key .*has changed",
     "the host key of {name} has changed: it was installed anew, or it is another machine that answers;"
     " if you expected that, `ssh-keygen -R '{known_as}'` and connect once by hand: `{by_hand}`"),
    ("host key verification failed|no .* host key is known",
     "the host key of {name} is not known yet; connect once by hand to accept it: `{by_hand}`"),
    ("permission denied \\(|too many authentication failures",
     "{name} does not let us in without a password; bring your key there: `ssh-copy-id{port} {user}{host}`"),
)  # fmt: skip


class SshDevice(RemoteDevice):
    """ssh://[user@]host[:port]; what is not given comes from ssh's own configuration."""

    kind = "ssh"
    root = '"${XDG_CACHE_HOME:-$HOME}/perse-compile"'

    def __init__(self, name: str) -> None:
        """Connects. Raises DeviceError."""
        match = ADDRESS.fullmatch(name)
        if match is None:
            raise DeviceError(f"{name!r} is not an address; give ssh://[user@]host[:port]")
        if shutil.which("ssh") is None:
            raise DeviceError(f"ssh is not installed; {CLIENT_HINT}")
        self.name = name
        self._user, self._host, self._port = match[1], match[2].strip("[]"), match[3]
        self._folder = tempfile.mkdtemp(prefix="perse-ssh-", dir="/tmp")  # the path of a socket must be short
        self._hang_up = weakref.finalize(self, _hang_up, self._command(), self._folder)  # at the latest when we exit
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._hang_up()

    def command_line(self, executable: str) -> str:
        return f"{self._by_hand()} {quote(f'{self.work}/{executable}')}"

    def _by_hand(self) -> str:
        return f"ssh{f' -p {self._port}' if self._port else ''} {f'{self._user}@' if self._user else ''}{self._host}"

    def _command(self) -> list[str]:
        options = [*OPTIONS, *SHARED, f"ConnectTimeout={CONNECT_SECONDS}", f"ControlPath={self._folder}/s"]
        where = [*(["-p", self._port] if self._port else []), *(["-l", self._user] if self._user else [])]
        return ["ssh", "-T", *(word for option in options for word in ("-o", option)), *where, "--", self._host]

    def _client(self, script: str) -> list[str]:
        return [*self._command(), f"exec sh -c {quote(script)}"]

    def _send(self, source: Path, to: str, tell: Tell) -> None:
        """By `cat`: a small board may have no sftp server."""
        total, done, complaints = source.stat().st_size, 0, b""
        command = self._client(f"cd {quote(self.work)} && cat >{quote(to)}")
        with tempfile.TemporaryFile() as said, source.open("rb") as file:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
            with process:
                assert process.stdin is not None
                try:
                    while data := file.read(CHUNK):
                        process.stdin.write(data)
                        done += len(data)
                        tell(done, total)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # said why below
                except BaseException:
                    process.kill()
                    raise
            said.seek(0)
            complaints = said.read()
        if process.returncode != 0:
            lines = complaints.decode(errors="replace").splitlines()
            raise self._failed(lines) if process.returncode != 255 else self._trouble(lines) or self._lost(lines)

    def _fetch(self, source: str, to: Path) -> None:
        with to.open("wb") as file, tempfile.TemporaryFile("w+") as said:
            command = self._client(f"cd {quote(self.work)} && cat {quote(source)}")
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=said, check=False, start_new_session=True
            ).returncode
            said.seek(0)
            lines = said.read().splitlines()
        if status != 0:
            raise self._failed(lines) if status != 255 else self._trouble(lines) or self._lost(lines)

    def _trouble(self, complaints: Sequence[str]) -> DeviceError | None:
        said = " ".join(complaints)
        port, user = f" -p {self._port}" if self._port else "", f"{self._user}@" if self._user else ""
        facts = {
            "name": self.name, "host": self._host, "port": port, "user": user,
            "by_hand": self._by_hand(),
            "known_as": f"[{self._host}]:{self._port}" if self._port not in (None, "22") else self._host,
        }  # fmt: skip
        for pattern, meaning in TROUBLE:
            if re.search(pattern, said, re.IGNORECASE):
                return DeviceLost(meaning.format(**facts))
        return None


def _hang_up(command: list[str], folder: str) -> None:
    subprocess.run(
        [*command[:-2], "-O", "exit", *command[-2:]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
