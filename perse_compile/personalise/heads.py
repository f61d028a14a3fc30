"""One person's heads in two places, an artifact folder and a device: they become the same, and none are lost.

Compared are the folder's heads.pack, the device's, and the checksum of what both were when they were last the same
(`heads.synced` there). The side that changed since then wins; if both did, the greater generation, on a tie the
device's. Personalised heads that lose are set aside in the folder as heads.pack.saved-XXXXXXXX.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from perse_compile.artifact import Artifact
from perse_compile.devices.cksum import cksum
from perse_compile.devices.files import written_atomically
from perse_compile.devices.remote import RemoteDevice
from perse_compile.errors import ArtifactError
from perse_compile.manifest import PACK, PREVIOUS, read_pack

SYNCED = "heads.synced"
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Heads:
    """heads.pack in one folder, and the one before it."""

    folder: Path
    sum: str | None  # of the pack; None if there is none
    generation: int  # -1 if there is none, it is damaged, or of another network
    sound: bool  # undamaged, if perhaps of another network

    def worth_keeping(self) -> list[Path]:
        """The pack, if it is more than the factory's and sound."""
        return [self.folder / PACK] if self.sound and self.generation != 0 else []

    def has(self, pack: Path) -> bool:
        known = (self.folder / name for name in (PACK, PREVIOUS))
        return any(path.is_file() and path.read_bytes() == pack.read_bytes() for path in known)


def heads_in(folder: Path, heads_id: int) -> Heads:
    """What is there, for the network of that `heads_id`."""
    pack = folder / PACK
    if not pack.is_file():
        return Heads(folder, None, -1, False)
    try:
        found = read_pack(pack)
    except ArtifactError:
        return Heads(folder, cksum(pack), -1, False)
    return Heads(folder, cksum(pack), found.generation if found.heads_id == heads_id else -1, True)


def device_wins(mine: Heads, theirs: Heads, synced: str | None) -> bool:
    """Whether the device's heads become the folder's, or the other way round; they differ."""
    if theirs.generation < 0 or mine.generation < 0:
        return theirs.generation >= 0
    if synced in (mine.sum, theirs.sum):
        return synced == mine.sum
    return theirs.generation >= mine.generation


def same_heads(artifact: Artifact, device: RemoteDevice, notice: Notice = lambda _: None) -> None:
    """Make them the same; `notice` is told what a person would want to know. Raises DeviceError."""
    home, heads_id = device.home(artifact.folder), artifact.manifest["heads_id"]
    found = device.checksums([f"{home}/{name}" for name in (PACK, PREVIOUS, SYNCED)])
    there = {path.rpartition("/")[2]: checksum for path, checksum in found.items()}
    synced = device.shell(f"cat {quote(home)}/{SYNCED}").strip() if SYNCED in there else None
    mine = heads_in(artifact.folder, heads_id)
    with tempfile.TemporaryDirectory(prefix="perse-heads-") as scratch:
        if there.get(PACK) == mine.sum:
            if PREVIOUS not in there and (artifact.folder / PREVIOUS).is_file():
                device.push(artifact.folder / PREVIOUS, f"{home}/{PREVIOUS}")
        else:
            for name in there.keys() & {PACK, PREVIOUS}:
                device.pull(f"{home}/{name}", Path(scratch) / name)
            _settle(mine, heads_in(Path(scratch), heads_id), synced, device, home, notice)
    now = heads_in(artifact.folder, heads_id).sum
    if now is not None and now != synced:
        record = f"{quote(home)}/{SYNCED}"
        device.shell(f"echo '{now}' >{record}.part && mv -f {record}.part {record}")


def _settle(mine: Heads, theirs: Heads, synced: str | None, device: RemoteDevice, home: str, notice: Notice) -> None:
    folder, both = mine.folder, synced not in (mine.sum, theirs.sum)
    if device_wins(mine, theirs, synced):
        why = "changed on both sides" if both and mine.generation >= 0 else "changed there"
        notice(f"heads of {folder} on {device.name} {why}; those of the device are in use, and now in the folder too")
        if synced != mine.sum:
            _set_aside(mine, theirs, folder, notice)
        previous = theirs.folder / PREVIOUS if (theirs.folder / PREVIOUS).is_file() else mine.folder / PACK
        for source, name in ((previous, PREVIOUS), (theirs.folder / PACK, PACK)):
            if source.is_file():
                with written_atomically(folder / name) as temporary:
                    shutil.copyfile(source, temporary)
        return
    if theirs.sum is not None and theirs.generation < 0:
        what = "of another network" if theirs.sound else "damaged"
        notice(f"heads of {folder} on {device.name} were {what}; those of the folder replace them")
    elif theirs.sum is not None and both:
        notice(f"heads of {folder} on {device.name} changed on both sides; those of the folder are newer and in use")
    if synced != theirs.sum or theirs.generation > mine.generation:
        _set_aside(theirs, mine, folder, notice)
    for name in (PREVIOUS, PACK):
        if (folder / name).is_file():
            device.push(folder / name, f"{home}/{name}")


def _set_aside(losing: Heads, winning: Heads, folder: Path, notice: Notice) -> None:
    for pack in losing.worth_keeping():
        if winning.has(pack):
            continue
        kept = folder / f"{PACK}.saved-{zlib.crc32(pack.read_bytes()):08x}"
        with written_atomically(kept) as temporary:
            shutil.copyfile(pack, temporary)
        notice(f"the heads that this replaces are kept as {kept}; copy it over {PACK} to have them back")
