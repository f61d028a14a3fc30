"""The `.perse` container: a safetensors file with one metadata entry, checked as a whole before anything is used.

metadata["perse"] is JSON {"version", "sha256", "program"}; the digest covers the program's JSON and, in order
of their names, every tensor's name, shape and bytes. One entry only: safetensors writes several in no fixed order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from perse_compile.errors import ProgramError

VERSION = 1


def write(path: Path, body: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    envelope = {"version": VERSION, "sha256": _digest(body, tensors), "program": body}
    with replacing(path) as temporary:
        save_file(_whole(tensors), temporary, {"perse": json.dumps(envelope, sort_keys=True, allow_nan=False)})


def _whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In order of names, which decides the bytes.

    Copies only of what safetensors refuses, shared or partly used storage: a network may have gigabytes.
    """
    seen: set[int] = set()
    whole = {}
    for name in sorted(tensors):
        tensor, storage = tensors[name].detach(), tensors[name].untyped_storage()
        if not tensor.is_contiguous() or storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
        whole[name] = tensor
    return whole


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProgramError(
            f"cannot read {path}: {error.strerror}; make it with `perse-compile insert-exits MODEL`"
        ) from error
    again = f"{path} is damaged; run insert-exits again"
    metadata = _metadata(data)
    if metadata is None:
        raise ProgramError(f"{path} is not a .perse program, or is damaged at its start; run insert-exits again")
    try:
        envelope = json.loads(metadata)
        version, sha256, body = envelope["version"], envelope["sha256"], envelope["program"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProgramError(again) from error
    if version != VERSION:
        raise ProgramError(
            f"{path} is of program version {version}, this perse-compile reads {VERSION}; run insert-exits again"
        )
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ProgramError(f"{again} ({error})") from error
    if _digest(body, tensors) != sha256:
        raise ProgramError(f"{again} (checksum does not match)")
    return body, tensors


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[str]:
    """A temporary file to write, which then takes the place: the old file, or the new one complete."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ProgramError(
            f"cannot write {path}: {reason}; free space or choose another place with -o (nothing changed)"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _metadata(data: bytes) -> str | None:
    """The one entry of the safetensors header, or None if there is no such header."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        return None
    try:
        value = json.loads(data[8 : 8 + length])["__metadata__"]["perse"]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def _digest(body: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.numpy().reshape(-1).view("uint8").data)
    return digest.hexdigest()
