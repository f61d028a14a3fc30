"""Writes what mock_plan.c needs: backbone.bin, heads.pack, mock_values.h, and images of made-up users as .npy and raw.

Classes are random prototypes with noise. The generic heads are fitted to them; a user's images have contrast and
colour of their own, so that there is something to learn.
"""

from __future__ import annotations

import itertools
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

WIDTHS = (8 * 8 * 3, 16, 24, 32)
CLASSES, SPARE, SPARE_LOGIT, NAME = 5, 2, -30000, 64
PROBES = 3
HEADS_ID = 0x600DF00D


def pages(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4096)


def taps(images: np.ndarray, weights: list[np.ndarray]) -> list[np.ndarray]:
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(255) - np.float32(0.5)
    result = []
    for weight in weights:
        x = np.maximum(x @ weight.T, 0)
        result.append(x)
    return result


def fit_head(features: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    shift, scale = features.mean(0), 1 / (features.std(0) + 1e-3)
    x = (features - shift) * scale
    target = np.eye(CLASSES)[labels] * 6 - 1.2
    weight = np.linalg.solve(x.T @ x + 30 * np.eye(x.shape[1]), x.T @ (target - target.mean(0)))
    weight = np.pad(weight, ((0, 0), (0, SPARE)))
    return {"shift": shift, "scale": scale, "weight": weight, "bias": np.append(target.mean(0), [SPARE_LOGIT] * SPARE)}


def levels(images: np.ndarray) -> np.ndarray:
    """[C,2], by sorting: what perse_measure_levels says of them."""
    ordered = np.sort(images.reshape(len(images), -1, images.shape[-1]), 1)
    pixels = ordered.shape[1]
    return np.stack([ordered[:, -(-pixels * share // 20) - 1].mean(0) for share in (1, 19)], 1)


def pack(heads: list[dict[str, np.ndarray]], ends: np.ndarray, generation: int = 0) -> bytes:
    body = ends.astype("<f4").tobytes() + bytes(SPARE * NAME)
    for i, head in enumerate(heads):
        body += struct.pack("<IIff16x", len(head["shift"]), 1, 1.0, 0.9 if i < len(heads) - 1 else 1.0)
        body += b"".join(head[name].astype("<f4").tobytes() for name in ("shift", "scale", "weight", "bias"))
    numbers = (len(heads), CLASSES + SPARE, HEADS_ID, generation, len(ends), SPARE)
    checked = struct.pack("<QIIIIII16x", 64 + len(body), *numbers) + body
    return struct.pack("<8sII", b"PERSEPAK", 3, zlib.crc32(checked)) + checked


def backbone(weights: list[np.ndarray], factory: bytes, probes: np.ndarray, logits: np.ndarray) -> bytes:
    weight_bytes = b"".join(w.astype("<f4").tobytes() for w in weights)
    probe_bytes = b"".join(p.tobytes() + bytes(-p.size % 64) for p in probes) + logits.astype("<f4").tobytes()
    pack_offset = 4096 + len(pages(weight_bytes))
    probe_offset = pack_offset + len(pages(factory))
    body = bytes(4096 - 64) + pages(weight_bytes) + pages(factory) + probe_bytes
    sections = (4096, len(weight_bytes), pack_offset, len(factory), probe_offset // 4096, len(probes))
    checked = struct.pack("<QQQQQII", 64 + len(body), *sections) + body
    return struct.pack("<8sII", b"PERSEBIN", 3, zlib.crc32(checked)) + checked


def make(folder: Path) -> None:
    rng = np.random.default_rng(5)
    weights = [rng.normal(0, (2 / i) ** 0.5, (o, i)).astype(np.float32) for i, o in itertools.pairwise(WIDTHS)]
    prototypes = rng.uniform(60, 195, (CLASSES, 8, 8, 3))

    def images(count: int, classes: list[int], shift: bool, noise: float = 42) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(classes, count)
        x = prototypes[labels] + rng.normal(0, noise, (count, 8, 8, 3))
        if shift:
            x = (x - 128) * np.array([0.5, 0.9, 0.3]) + 128 + np.array([45, -30, 20])
        return np.clip(x, 0, 255).astype(np.uint8), labels.astype(np.int64)

    train_x, train_y = images(600, list(range(CLASSES)), shift=False)
    heads = [fit_head(t, train_y) for t in taps(train_x, weights)]
    probes, _ = images(PROBES, list(range(CLASSES)), shift=False)
    pairs = zip(taps(probes, weights), heads, strict=True)
    logits = np.stack([(t - h["shift"]) * h["scale"] @ h["weight"] + h["bias"] for t, h in pairs], 1)
    factory = pack(heads, levels(train_x))
    file = backbone(weights, factory, probes, logits)
    (folder / "backbone.bin").write_bytes(file)
    (folder / "heads.pack").write_bytes(factory)
    values = {"MOCK_CRC32": zlib.crc32(file[16:]), "MOCK_SIZE": len(file), "MOCK_ID": HEADS_ID}
    (folder / "mock_values.h").write_text("".join(f"#define {k} {v}u\n" for k, v in values.items()))
    for name, shift in (("user", True), ("generic", False)):
        x, y = images(300, [0, 1, 2, 3], shift=shift)
        np.save(folder / f"{name}_x.npy", x)
        np.save(folder / f"{name}_y.npy", y)
        (folder / f"{name}.raw").write_bytes(x.tobytes() + y.astype("<i4").tobytes())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
