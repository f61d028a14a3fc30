"""The contract between Python and C: the writer of backbone.bin, heads.pack and manifest.json, and their reader here.

The layouts are those of runtime/plan.h; the version below is the one constant both sides check.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perse_compile.errors import ArtifactError
from perse_compile.program import Program

VERSION = 2
PAGE = 4096
CACHE_LINE = 64
CHECKED_FROM = 16  # where the bytes that a file's checksum covers begin: after the checksum itself
BACKBONE_HEADER = struct.Struct("<8sIIQQQQQII")
PACK_HEADER = struct.Struct("<8sIIQIIIII20x")
PACK_EXIT = struct.Struct("<IIff16x")
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
    return Pack(exits, identity, 0, np.array(program.levels or unknown, np.float32))


def encode_pack(pack: Pack) -> bytes:
    """As plan.h says."""
    body = pack.levels.astype("<f4").tobytes()
    for exit in pack.exits:
        body += PACK_EXIT.pack(len(exit.shift), int(exit.enabled), exit.temperature, exit.threshold)
        body += b"".join(leaf.astype("<f4").tobytes() for leaf in (exit.shift, exit.scale, exit.weight, exit.bias))
    length, classes = PACK_HEADER.size + len(body), len(pack.exits[0].bias)
    fields = (length, len(pack.exits), classes, pack.heads_id, pack.generation, len(pack.levels))
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
    _, version, crc, length, exits, classes, heads_id, generation, channels = PACK_HEADER.unpack_from(data)
    if version != VERSION:
        raise ArtifactError(
            f"{path} is of format {version}, this perse-compile reads {VERSION}; build the artifact again"
        )
    if length != len(data) or crc != checksum(data):
        raise damaged
    found, offset = [], PACK_HEADER.size + 8 * channels
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
    return Pack(found, heads_id, generation, levels)


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


def encode_backbone(weights: bytes, pack: bytes, probes: Probes) -> bytes:
    """All of backbone.bin."""
    pack_offset = _paged(PAGE + len(weights))
    probe_offset = _paged(pack_offset + len(pack))
    images = b"".join(_padded(image.tobytes(), CACHE_LINE) for image in probes.images)
    body = bytearray(probe_offset)
    body[PAGE : PAGE + len(weights)] = weights
    body[pack_offset : pack_offset + len(pack)] = pack
    body += images + probes.logits.astype("<f4").tobytes()
    sections = (PAGE, len(weights), pack_offset, len(pack), probe_offset // PAGE, len(probes.images))
    BACKBONE_HEADER.pack_into(body, 0, b"PERSEBIN", VERSION, 0, len(body), *sections)
    BACKBONE_HEADER.pack_into(body, 0, b"PERSEBIN", VERSION, checksum(body), len(body), *sections)
    return bytes(body)


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
