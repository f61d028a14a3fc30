"""A real sshd on loopback, for the tests alone: own keys, own configuration, run as the current user."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SERVER = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
SetEnv HOME={folder} XDG_CACHE_HOME={folder}/cache
"""
CLIENT = """Host *
  IdentityFile {folder}/{key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/{known}
  GlobalKnownHostsFile /dev/null
"""


def program() -> str | None:
    """sshd is not on everybody's path."""
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass
class Sshd:
    """One server."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def work(self) -> Path:
        return self.folder / "cache" / "perse-compile"

    def client(self, *, key: str = "user", known: str = "known") -> str:
        """A folder with an `ssh` that knows this server and nothing else."""
        config, folder = self.folder / f"config-{key}-{known}", self.folder / f"bin-{key}-{known}"
        config.write_text(CLIENT.format(folder=self.folder, key=key, known=known))
        folder.mkdir(exist_ok=True)
        real = next(path for path in os.environ["PATH"].split(":") if (Path(path) / "ssh").is_file())
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {real}/ssh -F {config} "$@"\n')
        (folder / "ssh").chmod(0o755)
        return str(folder)

    def connections(self) -> list[int]:
        """Processes of the server that serve one connection each."""
        return [process for process, (parent, _) in _processes().items() if parent == self.process.pid]

    def servants(self) -> list[int]:
        """The same, and the processes of sshd that those may have: all that must stop for a connection to be dead."""
        found, every = self.connections(), _processes()
        for process in found:
            found += [child for child, (parent, name) in every.items() if parent == process and name.startswith("sshd")]
        return found


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and name of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            start, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        found[int(path.parent.name)] = int(rest.split()[1]), start.partition("(")[2]
    return found


def start(folder: Path) -> Sshd:
    """Keys, known hosts, and the server, listening."""
    for key in ("host", "other", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for known, key in (("known", "host"), ("changed", "other")):
        kind, public, *_ = (folder / f"{key}.pub").read_text().split()
        (folder / known).write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
    (folder / "unknown").touch()
    (folder / "sshd_config").write_text(SERVER.format(folder=folder, port=port))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it for root
    sshd = program()
    assert sshd is not None
    log = (folder / "log").open("wb")
    process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stdout=log, stderr=log)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return Sshd(folder, port, process)
        time.sleep(0.05)
    process.kill()
    raise AssertionError((folder / "log").read_text())
