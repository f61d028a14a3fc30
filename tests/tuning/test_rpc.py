"""TVM's own tracker and servers, on loopback: many at once, one killed half-way, none there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perse_compile import targets
from perse_compile.errors import DeviceError
from perse_compile.lowering.choices import Choices
from perse_compile.lowering.network import lower
from perse_compile.lowering.values import Constant
from perse_compile.program import Program
from perse_compile.tuning import rpc, rpc_session
from perse_compile.tuning.batch import SHIPPED, Batch
from perse_compile.tuning.database import open_database
from perse_compile.tuning.linking import link_batch_library
from perse_compile.tuning.measure import Candidate, Effort, MeasuringStopped, prepared
from perse_compile.tuning.rpc import Farm
from tests.tuning.candidates import calls, double, of, sleeps, triple
from tests.tuning.schedules import refuses

pytestmark = pytest.mark.slow
X86, ARM = targets.load("x86_64-linux"), targets.load("arm64-linux")
QUICK = Effort(repeats=3, seconds=0.002, limit=2.0)
NAP = 0.25  # seconds that a run sleeps
NAPS = Effort(repeats=3, seconds=0, limit=5.0)  # four runs with the first


@dataclass
class Boards:
    port: int
    servers: dict[str, subprocess.Popen[bytes]]  # by host:port

    def farm(self, key: str) -> Farm:
        return Farm.named(f"rpc://127.0.0.1:{self.port}/{key}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on(port: int) -> list[str]:
    return ["--port", str(port), "--port-end", str(port + 1)]


@contextmanager
def started(folder: Path, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """As a user starts it, on a board without torch. It starts processes of its own: all of its group end with it."""
    (folder / "torch.py").write_text("raise ImportError('not on this board')\n")
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", *arguments]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(folder)}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boards]:
    """A tracker with one server under the key "one", and two under "two"."""
    folder = tmp_path_factory.mktemp("boards")
    tracker, ports = free_port(), [free_port() for _ in range(3)]
    with started(folder, "tvm.exec.rpc_tracker", *on(tracker)):
        wait_for(lambda: answers(tracker))
        address = ("--tracker", f"127.0.0.1:{tracker}")
        first, second, third = (
            started(folder, "tvm.exec.rpc_server", *on(port), *address, "--key", key)
            for port, key in zip(ports, ("one", "two", "two"), strict=True)
        )
        with first as a, second as b, third as c:
            found = Boards(tracker, {f"127.0.0.1:{port}": p for port, p in zip(ports, (a, b, c), strict=True)})
            wait_for(lambda: len(found.farm("one").tracker.servers(5) | found.farm("two").tracker.servers(5)) == 3)
            yield found


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not start in time"
        time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_measures_what_works_and_says_what_fails(boards: Boards) -> None:
    refused = Candidate([replace(of(X86, double).calls[0], schedule=refuses)], "double")
    values = (double, calls("abort"), triple, double, calls("pause"))
    farm = boards.farm("one")
    measured = farm.measure([refused, *(of(X86, value) for value in values)], X86, threads=2, effort=QUICK)
    says = ["does not compile: no loop of that name", None, "crashed (signal 6)", "wrong result", None]
    assert [m.error for m in measured] == [*says, "took longer than 2 s"]
    assert all(len(m.seconds) >= 3 for m in measured if m.error is None)
    assert farm.lost == [] and sum(farm.served.values()) == 5
    assert farm.measure([refused], X86) == [measured[0]]


def test_two_servers_measure_twice_as_many(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that sleep take no core from each other."""
    monkeypatch.setattr(rpc, "GROUP", 2)
    rates = {}
    for key in ("one", "two"):
        farm, candidates = boards.farm(key), [sleeps(X86, NAP) for _ in range(12)]
        began = time.monotonic()
        measured = farm.measure(candidates, X86, effort=NAPS)
        rates[key] = len(candidates) / (time.monotonic() - began)
        assert all(m.error is None and m.cost > NAP for m in measured)
        assert len(farm.served) == (1 if key == "one" else 2)
    print(f"trials a second: {rates['one']:.2f} with one server, {rates['two']:.2f} with two")
    assert rates["two"] > 1.4 * rates["one"]


def test_large_weights(boards: Boards) -> None:
    """Those of 63 MB travel; larger ones are made there."""
    rng, farm = np.random.default_rng(0), boards.farm("one")
    sizes = (15 << 20, 17 << 20)
    weights = [Constant(f"w{n}", rng.random(size, np.float32)) for n, size in enumerate(sizes)]
    assert [w.array.nbytes > SHIPPED for w in weights] == [False, True]
    candidates = [of(X86, double, f"task {n}", w, sizes[n]) for n, w in enumerate(weights)]
    measured = farm.measure(candidates, X86, effort=replace(QUICK, limit=10.0))
    assert [m.error for m in measured] == [None] * 2 and farm.lost == []


def test_code_for_another_machine(boards: Boards) -> None:
    target = ARM
    farm = boards.farm("one")
    for _ in range(2):
        says = r"^no server is left: 127.0.0.1:\d+ cannot run code for arm64-linux: [^\n]+$"
        with pytest.raises(MeasuringStopped, match=says):
            farm.measure([of(target, double)], target, effort=QUICK)
    assert len(farm.unfit) == 1 and farm.lost == []


def test_one_of_two_is_another_machine(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees what one of another architecture sees; the other one measures everything, this batch and the next."""
    monkeypatch.setattr(rpc, "GROUP", 1)
    farm, usual, asked = boards.farm("two"), rpc.measure_there, []
    stranger = sorted(farm.tracker.servers(5))[0]
    with prepared([of(ARM, double)], ARM, link_batch_library) as foreign:

        def measure_there(place: tuple[str, int, str], batch: Batch, *more: Any) -> list[str]:
            asked.append(f"{place[0]}:{place[1]}")
            return usual(place, foreign if asked[-1] == stranger else batch, *more)

        monkeypatch.setattr(rpc, "measure_there", measure_there)
        for _ in range(2):
            measured = farm.measure([of(X86, double)] * 3, X86, effort=QUICK)
            assert [m.error for m in measured] == [None] * 3
    assert asked.count(stranger) == 1 and set(farm.served) == farm.tracker.servers(5) - {stranger}
    assert list(farm.unfit) == [stranger] and farm.lost == []
    assert farm.unfit[stranger].startswith(f"{stranger} cannot run code for {ARM.name}: ")


def test_a_server_that_cannot_write(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as lost; with no other, measuring stops."""
    monkeypatch.setattr(rpc, "PATIENCE", 20.0)
    monkeypatch.setattr(QUICK.__class__, "options", lambda *_: {"too": 1, "few": 1})
    farm = boards.farm("one")
    with pytest.raises(MeasuringStopped, match="no server with the key 'one' is free"):
        farm.measure([of(X86, double)], X86, effort=QUICK)
    assert len(farm.lost) == 1 and "it was called wrongly" in farm.lost[0]


def test_no_server(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "PATIENCE", 0.5)
    start = f"python -m tvm.exec.rpc_server --tracker 127.0.0.1:{boards.port} --key none"
    says = f"no server with the key 'none' is free .*{start}"
    with pytest.raises(MeasuringStopped, match=says) as stopped:
        boards.farm("none").measure([of(X86, double)], X86, effort=QUICK)
    assert stopped.value.measured == {} and "\n" not in str(stopped.value)


def test_the_command(boards: Boards, tiny: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    """`tune` on both servers from first to last; `build` then finds their winners."""
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "tiny.perse")
    where = ("--device", f"rpc://127.0.0.1:{boards.port}/two", "--database", "t.jsonl", "--trials", "1")
    found = json.loads(call("tune", "--target", "x86_64-linux", *where, "--json")[0])
    assert (found["how"], found["where"], found["lost"]) == ("measured", "servers under the key two", [])
    assert set(found["served"]) == set(boards.farm("two").tracker.servers(5)) and len(found["served"]) == 2
    assert sum(found["served"].values()) >= found["trials"] + len(found["tasks"]) and found["trials"] > 0
    choices = Choices(X86, open_database(tmp_path / "t.jsonl", None).remembered(X86))
    lower(tiny, choices)
    assert choices.summary()["measured"] >= 1 and choices.summary()["where"] == [found["where"]]


def test_one_of_two_killed_half_way(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had goes to the other: everything is measured once, and the lost one is named."""
    monkeypatch.setattr(rpc, "GROUP", 2)
    farm, candidates = boards.farm("two"), [sleeps(X86, NAP) for _ in range(12)]
    victim = sorted(farm.tracker.servers(5))[0]
    working = threading.Event()

    def kill_at_work() -> None:
        wait_for(lambda: children(boards.servers[victim].pid) > 1)
        working.set()
        time.sleep(0.3)
        kill(boards.servers[victim])

    before = children(boards.servers[victim].pid)
    assert before == 1  # its worker; another process serves a session
    killer = threading.Thread(target=kill_at_work)
    killer.start()
    measured = farm.measure(candidates, X86, effort=NAPS)
    killer.join()
    assert working.is_set()
    assert all(m.error is None and len(m.seconds) == 3 for m in measured) and len(measured) == 12
    assert len(farm.lost) == 1 and farm.lost[0].startswith(victim)
    assert sum(farm.served.values()) == 12 and set(farm.served) - {victim}


def children(process: int) -> int:
    """All processes below one."""
    found = [int(c) for path in Path(f"/proc/{process}/task").glob("*/children") for c in path.read_text().split()]
    return len(found) + sum(children(child) for child in found)


@pytest.mark.parametrize(
    "name", ["rpc://", "rpc://host/key", "rpc://host:port/key", "rpc://host:1/", "rpc://h:1/a/b", "ssh://h"]
)
def test_names(name: str) -> None:
    with pytest.raises(DeviceError, match=r"names no servers; write rpc://TRACKER:PORT/KEY"):
        Farm.named(name)


def test_no_tracker() -> None:
    port = free_port()
    says = f"no tracker answers at 127.0.0.1:{port} .*python -m tvm.exec.rpc_tracker --port {port}"
    with pytest.raises(MeasuringStopped, match=says):
        Farm.named(f"rpc://127.0.0.1:{port}/key").measure([of(X86, double)], X86)


def test_something_else_than_a_tracker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")
                connection.recv(100)

        other = threading.Thread(target=greet)
        other.start()
        with pytest.raises(DeviceError, match=rf"no tracker answers at 127.0.0.1:{port} \(it is something else\)"):
            rpc_session.Tracker("127.0.0.1", port, "key").servers(5)
        other.join()


def test_servers_that_never_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them with the same candidates, and measuring stops; threads that hang are left behind."""
    monkeypatch.setattr(rpc, "PATIENCE", 0.2)
    places = iter([("far", port, "match") for port in range(9)])
    monkeypatch.setattr(rpc.Tracker, "servers", lambda *_: {"far:0"})
    monkeypatch.setattr(rpc.Tracker, "request", lambda *_: next(places))
    monkeypatch.setattr(rpc, "measure_there", lambda *_: time.sleep(60))
    farm = Farm.named("rpc://far:1/key")
    with pytest.raises(MeasuringStopped, match="far:2 does not answer"):
        farm.measure([of(X86, double)], X86, effort=replace(QUICK, limit=0.1))
    assert farm.lost == ["far:0 (does not answer)", "far:1 (does not answer)", "far:2 (does not answer)"]
