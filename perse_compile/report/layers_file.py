"""layers.json: the layers of the network in an artifact, which has no graph of its own; for people, a line a layer."""

from __future__ import annotations

import json
from pathlib import Path

from perse_compile.report.layers import Layer

LAYERS = "layers.json"


def encode_layers(found: list[Layer]) -> bytes:
    """The same layers give the same bytes."""
    return ("[\n" + ",\n".join(json.dumps(layer) for layer in found) + "\n]\n").encode()


def read_layers(folder: Path) -> list[Layer] | None:
    """Of an opened artifact, whose files are checked; None of one that was built before there was such a file."""
    path = folder / LAYERS
    return list(json.loads(path.read_bytes())) if path.exists() else None
