"""A server from TVM's tracker, and one batch measured there.

The tracker speaks JSON behind a length; `tvm.rpc.base` has the words. A server serves one session at a time, in a child
process and a folder of its own, and then offers itself to the tracker again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import rpc
from tvm.error import RPCError
from tvm.rpc import base

from perse_compile.errors import DeviceError
from perse_compile.tuning.batch import Batch

SAYS = {1: "it was called wrongly", 2: "its batch.data cannot be read", 3: "no answers can be written; is it full?"}


@dataclass(frozen=True)
class Tracker:
    """Where servers offer themselves under a key."""

    host: str
    port: int
    key: str

    @contextlib.contextmanager
    def _connected(self, timeout: float) -> Iterator[socket.socket]:
        try:
            with socket.create_connection((self.host, self.port), timeout) as connection:
                connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
                if base.recvall(connection, 4) != struct.pack("<i", base.RPC_TRACKER_MAGIC):
                    raise OSError("it is something else")
                yield connection
        except OSError as error:
            raise DeviceError(
                f"no tracker answers at {self.host}:{self.port} ({error}); "
                f"start one there: python -m tvm.exec.rpc_tracker --port {self.port}"
            ) from error

    def servers(self, timeout: float) -> set[str]:
        """host:port of those that it knows under the key, free or not. Raises DeviceError."""
        with self._connected(timeout) as connection:
            base.sendjson(connection, [base.TrackerCode.SUMMARY])
            _, summary = base.recvjson(connection)
        known = [info for info in summary["server_info"] if info["key"] == f"server:{self.key}"]
        return {f"{info['addr'][0]}:{info['addr'][1]}" for info in known}

    def request(self, timeout: float) -> tuple[str, int, str]:
        """Host, port and match key of a server. Raises NobodyFree when none is free in time, and DeviceError."""
        with self._connected(timeout) as connection:
            base.sendjson(connection, [base.TrackerCode.REQUEST, self.key, "", 1])
            try:
                _, (host, port, match) = base.recvjson(connection)
            except TimeoutError as error:
                raise NobodyFree(
                    f"no server with the key {self.key!r} is free at the tracker {self.host}:{self.port}; start one on "
                    f"each board: python -m tvm.exec.rpc_server --tracker {self.host}:{self.port} --key {self.key}"
                ) from error
        return host, port, match


class Refused(DeviceError):
    """A server that is there cannot load the code: its processor or its C library is another."""


class Lost(DeviceError):
    """A server went away, or did not answer in time, or is full."""


class NobodyFree(DeviceError):
    """The tracker has no server to give."""


def measure_there(place: tuple[str, int, str], batch: Batch, options: dict[str, float], timeout: float) -> list[str]:
    """One batch on the server that `request` gave: its answers, line by line. Raises Refused and Lost."""
    host, port, match = place
    try:
        session = rpc.connect(host, port, match, timeout)
        for name in ("batch.so", "batch.data"):
            session.upload(bytearray((batch.folder / name).read_bytes()), name)
        status = _load(session, batch, f"{host}:{port}")["perse_measure"](*options.values())
        if status != 0:
            raise Lost(SAYS[status])
        return bytes(session.download("batch.answers")).decode().splitlines(keepends=True)
    except RuntimeError as error:  # TVM's, of a lost connection, a session that took too long, a full disk
        raise Lost(_last_line(error)) from error


def _load(session: rpc.RPCSession, batch: Batch, server: str) -> Any:
    try:
        return session.load_module("batch.so")
    except RPCError as error:
        raise Refused(f"{server} cannot run code for {batch.target.name}: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][-200:]
