"""The contract between Python and C: the writer of backbone.bin, heads.pack and manifest.json, and their reader here.

The layouts are those of runtime/plan.h; the version below is the one constant both sides check.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.errors import ArtifactError
from perse_compile.program import Program

VERSION = 3
PAGE = 4096
CACHE_LINE = 64
CHUNK = 1 << 22  # bytes of a file read at once
CHECKED_FROM = 16  # where the bytes that a file's checksum covers begin: after the checksum itself
BACKBONE_HEADER = struct.Struct("<8sIIQQQQQII")
PACK_HEADER = struct.Struct("<8sIIQIIIIII16x")
PACK_EXIT = struct.Struct("<IIff16x")
CLASS_ROOM = 64  # bytes of a new class's name
BACKBONE, PACK, PREVIOUS, MANIFEST = "backbone.bin", "heads.pack", "heads.pack.previous", "manifest.json"
assert BACKBONE_HEADER.size == PACK_HEADER.size == 64 and PACK_EXIT.size == 32

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PackedExit:
    """One exit of a pack: when it answers, and its head."""

    enabled: bool
    temperature: float
    threshold: float
    shift: Floats  # (F,)
    scale: Floats  # (F,)
    weight: Floats  # (F, K)
    bias: Floats  # (K,)


@dataclass(frozen=True)
class Pack:
    """heads.pack: one person's heads."""

    exits: list[PackedExit]
    heads_id: int  # of the backbone these heads belong to
    generation: int
    levels: Floats  # (C, 2) of the training images or, in a person's pack, of their camera; 0 = not known
    spare: int = 0  # outputs that the network had no class for
    new_classes: tuple[str, ...] = ()  # those that have a class now, in order: this person's


def checksum(file: bytes | bytearray) -> int:
    """The CRC-32 that a backbone or a pack carries: over all that follows the field itself."""
    return zlib.crc32(file[CHECKED_FROM:])


# ---------------------------------------------------------------- packs


def pack_of(program: Program, identity: int) -> Pack:
    """The program's heads as generation 0."""
    exits = []
    for exit in program.exits:
        leaves = [
            np.ascontiguousarray(program.tensor(f"{exit.name}.{leaf}").detach().cpu().numpy(), dtype=np.float32)
            for leaf in ("shift", "scale", "weight", "bias")
        ]
        exits.append(PackedExit(exit.enabled, exit.temperature, exit.threshold, *leaves))
    unknown = [[0.0, 0.0]] * program.input.channels
    return Pack(exits, identity, 0, np.array(program.levels or unknown, np.float32), program.spare)


def encode_pack(pack: Pack) -> bytes:
    """As plan.h says."""
    names = b"".join(name.encode().ljust(CLASS_ROOM, b"\0") for name in pack.new_classes)
    body = pack.levels.astype("<f4").tobytes() + names.ljust(pack.spare * CLASS_ROOM, b"\0")
    for exit in pack.exits:
        body += PACK_EXIT.pack(len(exit.shift), int(exit.enabled), exit.temperature, exit.threshold)
        body += b"".join(leaf.astype("<f4").tobytes() for leaf in (exit.shift, exit.scale, exit.weight, exit.bias))
    length, classes = PACK_HEADER.size + len(body), len(pack.exits[0].bias)
    fields = (length, len(pack.exits), classes, pack.heads_id, pack.generation, len(pack.levels), pack.spare)
    crc = checksum(PACK_HEADER.pack(b"PERSEPAK", VERSION, 0, *fields) + body)
    return PACK_HEADER.pack(b"PERSEPAK", VERSION, crc, *fields) + body


def read_pack(path: Path) -> Pack:
    """Checked in full. Raises ArtifactError."""
    data = _read(path)
    damaged = ArtifactError(
        f"{path} is damaged or cut short; `perse-compile personalise {path.parent} --rollback` restores the one before"
    )
    if len(data) < PACK_HEADER.size or data[:8] != b"PERSEPAK":
        raise damaged
    _, version, crc, length, exits, classes, heads_id, generation, channels, spare = PACK_HEADER.unpack_from(data)
    if version != VERSION:
        raise ArtifactError(
            f"{path} is of format {version}, this perse-compile reads {VERSION}; build the artifact again"
        )
    if length != len(data) or crc != checksum(data):
        raise damaged
    found, names = [], PACK_HEADER.size + 8 * channels
    offset = names + spare * CLASS_ROOM
    if offset > len(data):
        raise damaged
    levels = np.frombuffer(data, "<f4", 2 * channels, PACK_HEADER.size).astype(np.float32).reshape(channels, 2)
    for _ in range(exits):
        if offset + PACK_EXIT.size > len(data):
            raise damaged
        features, enabled, temperature, threshold = PACK_EXIT.unpack_from(data, offset)
        offset += PACK_EXIT.size
        sizes = (features, features, features * classes, classes)
        if offset + 4 * sum(sizes) > len(data):
            raise damaged
        leaves = []
        for size in sizes:
            leaves.append(np.frombuffer(data, "<f4", size, offset).astype(np.float32))
            offset += 4 * size
        shift, scale, weight, bias = leaves
        found.append(
            PackedExit(bool(enabled), temperature, threshold, shift, scale, weight.reshape(features, classes), bias)
        )
    try:
        new = [
            data[at : at + CLASS_ROOM].rstrip(b"\0").decode()
            for at in range(names, names + spare * CLASS_ROOM, CLASS_ROOM)
        ]
    except UnicodeDecodeError:
        raise damaged from None
    return Pack(found, heads_id, generation, levels, spare, tuple(filter(None, new)))


# ---------------------------------------------------------------- backbone


@dataclass(frozen=True)
class Probes:
    """Images with known answers: uint8 (P,H,W,C), and PyTorch's logits (P, exits, K) with the factory heads."""

    images: NDArray[np.uint8]
    logits: Floats


def heads_id(program: Program) -> int:
    """What heads must match, on whatever target: the backbone they were trained on, and where they tap it."""
    heads = tuple(f"{exit.name}." for exit in program.exits)
    crc = zlib.crc32("\n".join(f"{exit.tap} {exit.grid}" for exit in program.exits).encode())
    for name, tensor in sorted(program.tensors().items()):
        if not name.startswith(heads):
            crc = zlib.crc32(
                np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes(), zlib.crc32(name.encode(), crc)
            )
    return crc


@dataclass(frozen=True)
class Written:
    """A backbone file as plan.c must know it."""

    size: int
    crc32: int


def write_backbone(
    path: Path, weights: Sequence[tuple[int, Floats]], weights_size: int, pack: bytes, probes: Probes
) -> Written:
    """All of backbone.bin, piece by piece: its weights may be gigabytes. They are given with offsets, in order."""
    pack_offset = _paged(PAGE + weights_size)
    probe_offset = _paged(pack_offset + len(pack))
    pieces: list[tuple[int, bytes | Floats]] = [(PAGE + offset, array) for offset, array in weights]
    pieces.append((pack_offset, pack))
    at = probe_offset
    for image in probes.images:
        pieces.append((at, _padded(image.tobytes(), CACHE_LINE)))
        at += -(-image.nbytes // CACHE_LINE) * CACHE_LINE
    pieces.append((at, probes.logits))
    size = at + probes.logits.nbytes
    sections = (PAGE, weights_size, pack_offset, len(pack), probe_offset // PAGE, len(probes.images))
    header = BACKBONE_HEADER.pack(b"PERSEBIN", VERSION, 0, size, *sections)
    crc, at = zlib.crc32(header[CHECKED_FROM:]), len(header)
    with path.open("wb") as file:
        file.write(header)
        for offset, piece in pieces:
            data = memoryview(piece) if isinstance(piece, bytes) else np.ascontiguousarray(piece, "<f4").data
            for part in (memoryview(bytes(offset - at)), data):
                crc = zlib.crc32(part, crc)
                file.write(part)
            at = offset + data.nbytes
        file.seek(0)
        file.write(BACKBONE_HEADER.pack(b"PERSEBIN", VERSION, crc, size, *sections))
    return Written(size, crc)


def facts_of(path: Path) -> dict[str, int]:
    """Its size and the checksum of all of it, as the manifest has them. Raises OSError."""
    size = crc = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            size, crc = size + len(data), zlib.crc32(data, crc)
    return {"bytes": size, "crc32": crc}


# ---------------------------------------------------------------- manifest


def encode_manifest(fields: dict[str, Any]) -> bytes:
    """Readable JSON that carries the checksum of everything else in it."""
    told = {**fields, "format": VERSION}
    return (json.dumps({**told, "crc32": _digest(told)}, indent=2, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ArtifactError when it is missing, damaged or of another version."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"no artifact at {folder}; `perse-compile build` makes one")
    data = _read(path)
    try:
        fields = json.loads(data)
        crc = fields.pop("crc32")
        version = fields["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged; build the artifact again") from error
    if version != VERSION:
        raise ArtifactError(
            f"{path} is of format {version}, this perse-compile reads {VERSION}; build the artifact again"
        )
    if crc != _digest(fields):
        raise ArtifactError(f"{path} is damaged (checksum does not match); build the artifact again")
    return dict(fields)


def _digest(fields: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror}; is {path.parent} an artifact? `perse-compile build` makes one"
        ) from error


def _paged(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _padded(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)
