"""A real ssh client, a real sshd on loopback, and everything that goes wrong between them."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from perse_compile import devices
from perse_compile.devices import Device, ssh
from perse_compile.devices.remote import RemoteDevice
from perse_compile.errors import DeviceError, DeviceLost, DeviceTimeout
from tests.stand_ins import sshd as servers
from tests.test_devices import alive

MACHINE = os.uname().machine


@pytest.fixture
def device(sshd: servers.Sshd, ssh_client: None) -> Iterator[RemoteDevice]:
    with devices.find(sshd.name, MACHINE, "none") as found:
        assert isinstance(found, RemoteDevice)
        yield found


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text('#!/bin/sh\npwd\nfor a in "$@"; do echo "[$a]" >&2; done\neval "$1"\n')
    path.chmod(0o755)
    return path


def run(device: Device, script: Path, *words: str, **more: object) -> tuple[int, str, list[str]]:
    """Status, stdout, lines of stderr."""
    told: list[str] = []
    device.push(script, "it's/script")
    with (script.parent / "out").open("w+") as output:
        status = device.run(["it's/script", *words], output=output, follow=told.append, **more)  # type: ignore[arg-type]
        output.seek(0)
        return status, output.read(), told


def test_one_connection_for_a_whole_session(sshd: servers.Sshd, ssh_client: None, script: Path) -> None:
    with devices.connect(sshd.name) as device:
        assert (device.kind, device.name, device.machine) == ("ssh", sshd.name, MACHINE)
        assert device.work == str(sshd.work)
        serving = sshd.connections()
        for _ in range(3):
            assert run(device, script, "exit 0")[0] == 0
        assert sshd.connections() == serving and len(serving) == 1
        found = device.describe()
        assert found.machine == MACHINE and found.cores > 0 and found.memory_bytes > 0 and found.processor
    for _ in range(100):
        if not sshd.connections():
            return
        time.sleep(0.05)
    pytest.fail("the connection stays when the device is closed")


def test_run(device: RemoteDevice, script: Path) -> None:
    work = f"{device.work}\n"
    assert run(device, script, "exit 3", "a b", "$HOME 'x'") == (3, work, ["[exit 3]", "[a b]", "[$HOME 'x']"])
    assert run(device, script, "kill -SEGV $$")[0] == -signal.SIGSEGV
    assert run(device, script, "exit 0", timeout=60)[0] == 0
    with (
        (script.parent / "out").open("w") as output,
        pytest.raises(DeviceError, match=r"cannot start \./none on ssh://"),
    ):
        device.run(["none"], output=output)
    with pytest.raises(DeviceError, match="out of luck"):
        device.shell("echo out of luck >&2; exit 1")
    with pytest.raises(DeviceError, match="a command failed"):
        device.shell("exit 1")
    assert device.command_line("a/perse").startswith(f"ssh -p {device.name.rpartition(':')[2]} {getpass.getuser()}@127")


def test_files_travel_once(device: RemoteDevice, tmp_path: Path) -> None:
    folder, told = tmp_path / "some folder", list[tuple[int, int]]()
    (folder / "deep").mkdir(parents=True)
    (folder / "a'b").write_bytes(os.urandom(3_000_000))
    (folder / "deep" / "empty").touch()
    device.push(folder, "there", lambda *news: told.append(news))
    assert told[-1] == (3_000_000, 3_000_000) and len(told) > 5
    old = (Path(device.work) / "there" / "a'b").stat()
    device.push(folder, "there", lambda *news: pytest.fail("sent again"))
    (folder / "a'b").write_bytes(b"new")
    device.push(folder, "there")
    assert (Path(device.work) / "there" / "a'b").stat().st_ino != old.st_ino  # replaced, not overwritten
    device.pull("there", tmp_path / "back")
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").rglob("*") if p.is_file()} == {
        "a'b": b"new",
        "empty": b"",
    }
    device.pull("there/a'b", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"new"
    with device.lend(tmp_path / "one") as there:
        assert Path(there).read_bytes() == b"new"
    assert not Path(there).exists()
    device.remove("there"), device.remove("there")
    with pytest.raises(DeviceError, match=r"has no file .*perse-compile/there"):
        device.pull("there", tmp_path / "x")
    with pytest.raises(DeviceError, match=r"cannot read .*gone: No such file or directory; nothing is half-pushed"):
        device.push(tmp_path / "gone", "gone")
    with pytest.raises(DeviceError, match=r"cannot write .*: (Not a directory|File exists); free some space"):
        device.push(tmp_path / "one", "one"), device.pull("one", tmp_path / "one" / "x")
    assert list(Path(device.work).rglob("*.part")) == []


def test_a_full_device(device: RemoteDevice, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(2_000_000))
    part = Path(device.work) / ".big.part"
    part.symlink_to("/dev/full")
    with pytest.raises(DeviceError, match=r"is full; free some space there, in .*perse-compile for instance"):
        device.push(tmp_path / "big", "big")
    assert not part.is_symlink() and not (Path(device.work) / "big").exists()


def test_damage_on_the_way(device: RemoteDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    send, fetch = ssh.SshDevice._send, ssh.SshDevice._fetch
    (tmp_path / "y").write_bytes(b"hellx")
    monkeypatch.setattr(ssh.SshDevice, "_send", lambda self, source, to, tell: send(self, tmp_path / "y", to, tell))
    with pytest.raises(DeviceError, match=r"x.part arrived damaged; push again"):
        device.push(tmp_path / "x", "damaged/x")
    assert list((Path(device.work) / "damaged").iterdir()) == []
    monkeypatch.setattr(ssh.SshDevice, "_send", send)
    device.push(tmp_path / "x", "damaged/x"), device.push(tmp_path / "y", "damaged/y")
    monkeypatch.setattr(ssh.SshDevice, "_fetch", lambda self, source, to: fetch(self, "damaged/y", to))
    with pytest.raises(DeviceError, match=r"z arrived damaged from ssh://.*; pull again"):
        device.pull("damaged/x", tmp_path / "z")
    assert not (tmp_path / "z").exists()


# --- an end before the end --------------------------------------------------------------------------------


def test_timeout_kills_what_runs_there(device: RemoteDevice, script: Path) -> None:
    told: list[str] = []
    device.push(script, "script")
    with (script.parent / "out").open("w") as output, pytest.raises(DeviceTimeout, match=r"on ssh.* longer than 0.5 s"):
        device.run(["script", "sleep 60 & echo $! >&2; wait"], output=output, follow=told.append, timeout=0.5)
    assert not alive(int(told[-1]))
    with pytest.raises(DeviceTimeout, match=r"no answer from ssh://.* in 0.3 s; is it still there"):
        device.shell("sleep 5", timeout=0.3)


def test_ctrl_c_kills_what_runs_there(device: RemoteDevice, script: Path) -> None:
    told: list[str] = []

    def press(line: str) -> None:
        told.append(line)
        if line.isdecimal():
            raise KeyboardInterrupt

    device.push(script, "script")
    with (script.parent / "out").open("w") as output, pytest.raises(KeyboardInterrupt):
        device.run(["script", "sleep 60 & echo $! >&2; wait"], output=output, follow=press)
    assert not alive(int(told[-1]))
    assert run(device, script, "exit 0")[0] == 0


def test_a_lost_connection(sshd: servers.Sshd, device: RemoteDevice, script: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def cut(line: str) -> None:
        told.append(line)
        if line.isdecimal():
            for process in sshd.connections():
                with suppress(ProcessLookupError):  # the first takes others with it
                    os.kill(process, signal.SIGKILL)

    device.push(script, "script")
    says = r"lost the connection to ssh://.*; nothing there or here is half-written: reconnect and repeat"
    with (script.parent / "out").open("w") as output, pytest.raises(DeviceLost, match=says):
        device.run(["script", "sleep 60 & echo $! >&2; wait"], output=output, follow=cut)
    assert not alive(int(told[-1]))
    (tmp_path / "big").write_bytes(os.urandom(5_000_000))
    with pytest.raises(DeviceLost, match=says):
        device.push(tmp_path / "big", "lost", lambda done, total: cut("1"))
    assert not (Path(device.work) / "lost").exists()
    device.push(tmp_path / "big", "lost")  # ssh connects again
    assert (Path(device.work) / "lost").stat().st_size == 5_000_000
    with pytest.raises(DeviceLost, match=says):
        device.shell(f"kill -9 {sshd.connections()[0]}; sleep 1")


def test_a_dead_link(sshd: servers.Sshd, ssh_client: None, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side is there, but no packets come: as when the board's power is cut."""
    monkeypatch.setattr(ssh, "OPTIONS", ("BatchMode=yes", "ServerAliveInterval=1", "ServerAliveCountMax=1"))
    with devices.connect(sshd.name) as device, (script.parent / "out").open("w") as output:
        device.push(script, "script")
        frozen = sshd.servants()
        try:
            with pytest.raises(DeviceLost, match=r"ssh://"):
                device.run(
                    ["script", "echo go >&2; sleep 60"],
                    output=output,
                    follow=lambda line: [os.kill(process, signal.SIGSTOP) for process in frozen] and None,
                )
        finally:
            for process in frozen:
                os.kill(process, signal.SIGKILL)


# --- no way in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ssh:", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://a:b", "ssh://a/b"])
def test_not_an_address(name: str) -> None:
    with pytest.raises(DeviceError, match=r"is not an address; give ssh://\[user@\]host\[:port\]"):
        devices.connect(name)


def test_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="ssh is not installed; install it with `apt-get install openssh-client`"):
        devices.connect("ssh://a")


def test_refused(ssh_client: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        name = f"ssh://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeviceLost, match=f"{name} refused the connection; is sshd running there"):
            devices.connect(name)


def test_unknown_host(ssh_client: None) -> None:
    with pytest.raises(DeviceLost, match=r"unknown host nowhere\.invalid; check the name, or give the address"):
        devices.connect("ssh://nowhere.invalid")


def test_no_answer(ssh_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"ssh://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeviceLost, match=f"no answer from {name} in time; is it on, and on this network"):
            devices.connect(name)


@pytest.mark.parametrize(
    ("key", "known", "says"),
    [
        ("stranger", "known", r"does not let us in without a password; .*`ssh-copy-id -p \d+ \w+@127.0.0.1`"),
        ("user", "unknown", r"host key of .* is not known yet; connect once by hand .*`ssh -p \d+ \w+@127.0.0.1`"),
        ("user", "changed", r"host key of .* has changed: .* `ssh-keygen -R '\[127.0.0.1\]:\d+'` and connect once"),
    ],
)
def test_keys(sshd: servers.Sshd, monkeypatch: pytest.MonkeyPatch, key: str, known: str, says: str) -> None:
    monkeypatch.setenv("PATH", f"{sshd.client(key=key, known=known)}:{os.environ['PATH']}")
    with pytest.raises(DeviceLost, match=says):
        devices.connect(sshd.name)


def test_another_architecture(sshd: servers.Sshd, ssh_client: None) -> None:
    says = rf"{sshd.name} is {MACHINE}, but this was built for riscv64; build with a target for {MACHINE}"
    with pytest.raises(DeviceError, match=says):
        devices.find(sshd.name, "riscv64", "none")


def test_what_else_ssh_may_say(device: RemoteDevice) -> None:
    for line in ("connect to host a port 22: No route to host", "connect to host a port 22: Network is unreachable"):
        assert "cannot be reached from this network" in str(device._trouble([line]))
    assert device._trouble(["something new"]) is None


def test_no_cksum(sshd: servers.Sshd, ssh_client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh.SshDevice, "root", f"{sshd.work} && PATH=/nowhere")
    with pytest.raises(DeviceError, match="has no `cksum`, which every POSIX system has"):
        devices.connect(sshd.name)
