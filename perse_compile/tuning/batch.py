"""The candidates of one batch as object files, a table in C, and a file with inputs and constants."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from perse_compile.building.emit_c import prototype
from perse_compile.lowering.kernels.scope import KernelCall, Stored
from perse_compile.lowering.values import Constant
from perse_compile.targets import Target
from perse_compile.tuning.candidate import Candidate
from perse_compile.tuning.compiler import DoesNotCompile
from perse_compile.tuning.objects import Compiled, objects_for

PAGE = 4096
SHIPPED = 64 << 20  # bytes of a constant; of a larger one every element is the same, set on the device


@dataclass
class Batch:
    """Files in `folder`: batch.c, batch.data. `failed`: number -> error of those that do not compile."""

    folder: Path
    target: Target
    candidates: Sequence[Candidate]
    failed: dict[int, str] = field(default_factory=dict)
    kernels: dict[int, list[Compiled]] = field(default_factory=dict)  # number -> its kernels in order

    @property
    def objects(self) -> list[str]:
        """Files to link, each once."""
        return list(dict.fromkeys(str(k.path) for number in self.numbers for k in self.kernels[number]))

    @property
    def numbers(self) -> list[int]:
        """Of the candidates that compile."""
        return [n for n in range(len(self.candidates)) if n not in self.failed]


@dataclass
class _Pieces:
    """What batch.data holds; equal arrays lie there once."""

    file: IO[bytes]
    size: int = 0
    where: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, array: NDArray[np.generic]) -> int:
        """The offset; pages of their own, as for weights in backbone.bin."""
        if key not in self.where:
            self.where[key] = self.size
            self.file.write(array.tobytes())
            self.size += array.nbytes
            padding = -self.size % PAGE
            self.file.write(bytes(padding))
            self.size += padding
        return self.where[key]


def write_batch(candidates: Sequence[Candidate], target: Target, folder: Path) -> Batch:
    """Compile every kernel by itself, so that one which does not compile costs only its candidates.

    Raises OSError and BuildError.
    """
    batch, objects = Batch(folder, target, candidates), objects_for(target)
    for number, candidate in enumerate(candidates):
        try:
            batch.kernels[number] = [objects.compile(call) for call in candidate.calls]
        except DoesNotCompile as error:
            batch.failed[number] = f"does not compile: {error}"
    with (folder / "batch.data").open("wb") as file:
        pieces = _Pieces(file)
        pieces.add("", np.zeros(1, np.float32))  # never empty
        tables = [_table(number, candidates[number], pieces, batch.kernels[number]) for number in batch.numbers]
    rows = "\n".join(row for _, row in tables)
    functions = "\n".join(code for code, _ in tables)
    (folder / "batch.c").write_text(SOURCE.format(functions=functions, rows=rows, count=len(tables)))
    return batch


SOURCE = """/* batch.c - candidates: their kernels in order, on which memory. Written by perse-compile. */
#include "batch.h"

#define A(offset) ((void *)(arena + (offset)))
#define D(offset) ((const void *)(data + (offset)))

{functions}
const perse_candidate perse_candidates[] = {{
{rows}
    {{0}},
}};
const uint32_t perse_candidate_count = {count};
"""


@dataclass
class _Memory:
    """One candidate's arena and what it is given."""

    size: int = 0
    at: dict[str, int] = field(default_factory=dict)  # values by name
    inputs: list[tuple[int | None, int, int]] = field(default_factory=list)  # from, to, bytes

    def take(self, name: str, size: int) -> int:
        self.at[name] = self.size
        self.size += -(-size // 64) * 64
        return self.at[name]


def _table(number: int, candidate: Candidate, pieces: _Pieces, kernels: list[Compiled]) -> tuple[str, str]:
    """Its function, and its row of the table, in C."""
    memory, statements, prototypes = _Memory(), [], []
    images = {stored.name: stored for stored in candidate.images}
    for i, call in enumerate(candidate.calls):
        given = [_argument(call, position, memory, images, pieces) for position in range(len(call.inputs))]
        written = [*([call.sums] if call.sums else []), (call.output, call.shape)]
        for output, shape in written:
            if output not in memory.at:
                memory.take(output, 4 * math.prod(shape))
        name = kernels[i].symbol
        prototypes.append(prototype(name, len(given), len(written)))
        arguments = [*given, *(f"A({memory.at[output]})" for output, _ in written)]
        statements.append(f"    if ({name}({', '.join(arguments)}) != 0) return 1;\n")
    extents = [extent for kernel in kernels for extent in kernel.launches]
    rows = "".join(
        f"    {{{'PERSE_ANY' if at is None else f'{at}u'}, {to}u, {size}u}},\n" for at, to, size in memory.inputs
    )
    code = (
        f"{''.join(prototypes)}static int run{number}(uint8_t *arena, const uint8_t *data) {{\n    (void)data;\n"
        f"{''.join(statements)}    return 0;\n}}\n"
        f"static const perse_piece inputs{number}[] = {{\n{rows}    {{0, 0, 0}},\n}};\n"
        f"static const uint32_t launches{number}[] = {{{', '.join(f'{extent}u' for extent in [*extents, 0])}}};\n"
    )
    last = candidate.calls[-1]
    inputs = f"inputs{number}, {len(memory.inputs)}u"
    result = f"{memory.at[last.output]}u, {math.prod(last.shape)}u"
    row = f"    {{{number}u, run{number}, {memory.size}u, {inputs}, {result}, launches{number}}},"
    return code, row


def _argument(call: KernelCall, position: int, memory: _Memory, images: dict[str, Stored], pieces: _Pieces) -> str:
    source = call.inputs[position]
    if isinstance(source, Constant):
        if source.array.nbytes <= SHIPPED:
            return f"D({pieces.add(source.key, source.array)})"
        if source.key not in memory.at:
            to = memory.take(source.key, source.array.nbytes)
            memory.inputs.append((None, to, source.array.nbytes))
        return f"A({memory.at[source.key]})"
    name, shape = source
    if name not in memory.at:
        array = _values(name, shape, str(call.func.params[position].dtype), images.get(name))
        to = memory.take(name, array.nbytes)
        memory.inputs.append((pieces.add(f"{name} {array.dtype} {array.size}", array), to, array.nbytes))
    return f"A({memory.at[name]})"


def _values(name: str, shape: tuple[int, ...], dtype: str, image: Stored | None) -> NDArray[np.generic]:
    """Pseudo-random, the same for the same name and logical shape; an image's margins and gaps are 0."""
    rng, size = np.random.default_rng(zlib.crc32(name.encode())), math.prod(shape)
    if dtype == "uint8":
        return rng.integers(0, 256, size, np.uint8)
    if image is None or image.strides is None:
        return rng.uniform(-1, 1, size).astype(np.float32)
    memory, strides = np.zeros(size, np.float32), image.strides
    seen = np.lib.stride_tricks.as_strided(
        memory[strides.offset :], image.shape, tuple(4 * step for step in strides.steps)
    )
    seen[...] = rng.uniform(-1, 1, math.prod(image.shape)).astype(np.float32).reshape(image.shape)
    return memory
