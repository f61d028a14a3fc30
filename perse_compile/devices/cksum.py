"""The checksum that every POSIX shell can make: `cksum`, at the speed of zlib."""

from __future__ import annotations

import zlib
from pathlib import Path

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
CHUNK = 1 << 20


def cksum(path: Path) -> str:
    """`CHECKSUM SIZE`, as `cksum < path` prints it. Raises OSError.

    It is zlib's CRC-32 with the bits of every byte and of the result in reverse order, begun at zero, and with the
    length after the data.
    """
    crc, size = 0xFFFFFFFF, 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            crc, size = zlib.crc32(data.translate(REVERSED), crc), size + len(data)
    length = size.to_bytes((size.bit_length() + 7) // 8, "little")
    crc = zlib.crc32(length.translate(REVERSED), crc)
    return f"{int(f'{crc:032b}'[::-1], 2)} {size}"
