"""A stand-in for Android's adb client: its devices are folders, its ARM executables run under qemu.

It knows `devices`, and with -s SERIAL, or without where there is one device, `push`, `pull` and `shell`, and answers as
the real one does, in its words. The folder PERSE_ADB holds state.json: {"devices": {serial: state}, "old": bool,
"broken": bool}; `old` is a device before Android 7, whose shell has one stream and no exit status. A serial that leaves
state.json is a cable being pulled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, NoReturn

HOME = Path(os.environ["PERSE_ADB"])
THERE = "/data/local/tmp"
QEMU = "qemu-aarch64-static"


def state() -> dict:
    while True:  # the test may be writing it
        try:
            return json.loads((HOME / "state.json").read_text())
        except ValueError:
            time.sleep(0.01)


def fail(message: str, status: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(status)


def root(serial: str) -> str:
    return str(HOME / serial)


def devices() -> None:
    if state().get("broken"):
        fail("* failed to start daemon\nerror: cannot connect to daemon")
    print("List of devices attached")
    for serial, kind in state()["devices"].items():
        print(f"{serial}\t{kind}")
    print()


def copy(serial: str, how: str, source: str, to: str) -> None:
    here, there = (source, to) if how == "push" else (to, source)
    mapped = there.replace(THERE, root(serial))
    try:
        with (
            open(here if how == "push" else mapped, "rb") as reader,
            open(mapped if how == "push" else here, "wb", buffering=0) as writer,
        ):
            while data := reader.read(1 << 16):
                if serial not in state()["devices"]:
                    fail(f"adb: error: failed to copy '{source}' to '{to}': no response: Connection reset by peer")
                writer.write(data)
                time.sleep(state().get("slow", 0))
    except OSError as error:
        fail(f"adb: error: failed to copy '{source}' to '{to}': remote write failed: {error.strerror}")
    if how == "push":
        shutil.copymode(here, mapped)
    print(f"{source}: 1 file {how}ed, 0 skipped.")


def is_arm(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(20)
    return head[:4] == b"\x7fELF" and head[18] == 183


def emulated(script: str, serial: str) -> str:
    """ARM executables at the beginning of a line get qemu before them."""
    within = re.search(rf"^cd '?({re.escape(root(serial))}[^ ']*)", script, re.M)

    def with_qemu(match: re.Match[str]) -> str:
        path = Path(within[1] if within else "/") / match[1]
        return f"{QEMU} {match[1]}" if path.is_file() and is_arm(path) else match[1]

    return re.sub(r"^(\.?/\S+)(?= )", with_qemu, script, flags=re.M)


def shell(serial: str, script: str) -> None:
    old, real = state().get("old", False), root(serial)
    environment = {**os.environ, "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}"}
    # With an old device the end of our stdin is not told; it sees only that we are gone.
    stdin = subprocess.PIPE if old else None
    process = subprocess.Popen(
        ["sh", "-c", emulated(script.replace(THERE, real), serial)],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT if old else subprocess.PIPE,
        env=environment, start_new_session=True,
    )  # fmt: skip

    def show(stream: IO[bytes], to: IO[bytes]) -> None:
        for line in stream:
            text = line.replace(real.encode(), THERE.encode())
            to.write(text.replace(b"\n", b"\r\n") if old else text)
            to.flush()

    def watch_the_cable() -> None:
        while process.poll() is None:
            if serial not in state()["devices"]:
                os.killpg(process.pid, signal.SIGKILL)
                os._exit(255)
            time.sleep(0.02)

    threads = [threading.Thread(target=show, args=(process.stdout, sys.stdout.buffer))]
    threads += [] if old else [threading.Thread(target=show, args=(process.stderr, sys.stderr.buffer))]
    threading.Thread(target=watch_the_cable, daemon=True).start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = process.wait()
    sys.stdout.flush()
    os._exit(0 if old else status % 256)


def main(words: list[str]) -> None:
    if words == ["devices"]:
        devices()
        return
    if words[:1] != ["-s"] and len(state()["devices"]) == 1:
        words = ["-s", next(iter(state()["devices"])), *words]
    option, serial, command, *rest = words
    if option != "-s" or command not in ("push", "pull", "shell"):
        fail(f"adb: usage: unknown command {words}")
    kind = state()["devices"].get(serial)
    if kind is None:
        fail(f"adb: device '{serial}' not found")
    if kind != "device":
        fail(f"adb: device {kind}.")
    if command == "shell":
        shell(serial, " ".join(rest))
    else:
        copy(serial, command, *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
