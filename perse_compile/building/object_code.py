"""PrimFuncs to one object file, every kernel a plain C function `int kernel(const float *..., float *)`.

TVM's packed calling convention checks shapes at run time, at some kilobytes a kernel. Shapes are fixed
here and the caller is generated, so the kernels take bare pointers: everything else is TVM's own pipeline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType

from perse_compile.building.link import join_objects
from perse_compile.errors import LoweringError
from perse_compile.lowering.strided import MARGINS
from perse_compile.targets import Target

PARTS = 4  # compiled side by side; always so many, that the same program gives the same bytes
WORKSPACE = (4 << 20) // 64  # bytes a kernel may take: PERSE_WORKSPACE for PERSE_MAX_THREADS


def tvm_target(target: Target) -> tvm.target.Target:
    """As TVM wants it: a dict, never a string."""
    options = {
        "kind": "llvm",
        "mtriple": target.mtriple,
        "mcpu": target.mcpu,
        "mattr": list(target.mattr),
        "num-cores": target.cores,
    }
    return tvm.target.Target({key: value for key, value in options.items() if value != []})


def compile_kernels(kernels: dict[str, tirx.PrimFunc], target: Target, path: Path) -> dict[str, tirx.PrimFunc]:
    """Write one object file that defines every kernel under its name; gives them as they were before LLVM's part."""
    names = list(kernels)
    parts = [{name: kernels[name] for name in names[part::PARTS]} for part in range(min(PARTS, len(names)))]
    objects = [path.with_name(f"{path.stem}{part}.o") for part in range(len(parts))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(partial(_compile_part, target=target), parts, objects))
    join_objects(objects, path)
    lowered = {name: func for part in done for name, func in part.items()}
    return {name: lowered[name] for name in names}


def _compile_part(kernels: dict[str, tirx.PrimFunc], path: Path, target: Target) -> dict[str, tirx.PrimFunc]:
    into = tvm_target(target)
    module = tvm.IRModule({name: func.with_attr("global_symbol", name) for name, func in kernels.items()})
    module = tirx.transform.BindTarget(into.with_host(into))(module)
    module = tvm.ir.transform.Sequential(_lowering())(module)
    for name in kernels:
        _check_workspace(name, module[name])
    lowered = {name: module[name] for name in kernels}
    registers = target.registers * target.vector_bytes
    plain = tvm.IRModule({name: _with_pointers(_on_stack(func, registers)) for name, func in lowered.items()})
    plain = tirx.transform.LowerTVMBuiltin()(plain)  # frees at the end of a body what it allocated: before any return
    plain = tirx.transform.LowerIntrin()(tvm.IRModule({name: _with_status(plain[name]) for name in kernels}))
    tvm.get_global_func("target.build.llvm")(plain, into).write_to_file(str(path))
    return lowered


def launches(node: Any) -> list[int]:
    """Extents of the parallel loops of a lowered statement, in the order in which they run."""
    if isinstance(node, tirx.For) and node.kind == tirx.ForKind.PARALLEL:
        return [int(node.extent)]
    inside = [getattr(node, name, None) for name in ("body", "then_case", "else_case")]
    found = [
        n for child in [*inside, *(getattr(node, "seq", None) or ())] if child is not None for n in launches(child)
    ]
    return found * int(node.extent) if found and isinstance(node, tirx.For) else found


def _lowering() -> list[tvm.ir.transform.Pass]:
    """TVM's default pipeline for the CPU, less what only accelerators and packed calls need."""
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        s_tir.transform.HoistIfThenElse(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.VerifyMemory(),
    ]


def _check_workspace(name: str, func: tirx.PrimFunc) -> None:
    """What a kernel allocates for itself must fit the runtime's PERSE_WORKSPACE, for every thread."""
    sizes = [_bytes(node) for node in _statements(func.body) if isinstance(node, tirx.AllocBuffer)]
    if sum(sizes) > WORKSPACE:
        raise LoweringError(f"kernel {name} wants {sum(sizes)} bytes of workspace, more than {WORKSPACE}")


def _bytes(node: tirx.AllocBuffer) -> int:
    lanes = int(str(node.buffer.dtype).partition("x")[2] or 1)
    return 4 * lanes * math.prod(int(size) for size in node.buffer.shape)


def _statements(node: Any) -> Iterator[Any]:
    """A statement and all statements inside it."""
    yield node
    inside = [getattr(node, name, None) for name in ("body", "then_case", "else_case")]
    for child in [*inside, *(getattr(node, "seq", None) or ())]:
        if isinstance(child, tirx.Stmt):
            yield from _statements(child)


def _write_margins(result: tirx.Var, zeros: list[int]) -> list[tirx.Stmt]:
    """Zeros before, between and after the rows of an image; `zeros` as kernels/margins.py says."""
    size, first, rows, row, used = zeros
    memory = tirx.decl_buffer((size,), "float32", "margins")

    def run(name: str, start: Any, length: int) -> tirx.Stmt:
        i = tirx.Var(name, "int32")
        store = tirx.BufferStore(memory, tirx.const(0.0, "float32"), [start + i])
        return tirx.For(i, 0, length, tirx.ForKind.SERIAL, store)

    h, end = tirx.Var("h", "int32"), first + (rows - 1) * row + used
    between = tirx.For(h, 0, rows - 1, tirx.ForKind.SERIAL, run("gap", first + used + h * row, row - used))
    runs = [run("above", 0, first), between, run("below", end, size - end)]
    return [tirx.DeclBuffer(memory, data=result), *runs]


def _on_stack(func: tirx.PrimFunc, registers: int) -> tirx.PrimFunc:
    """LLVM can keep there what fits the registers, so many bytes; TVM takes 1024 and more from the workspace."""

    def kept(node: Any) -> Any:
        if isinstance(node, tirx.AllocBuffer) and _bytes(node) <= registers:
            return tirx.AllocBuffer(node.buffer, {"disable_lower_builtin": tirx.IntImm("bool", 1)})
        if isinstance(node, tirx.SeqStmt):
            return tirx.SeqStmt([kept(each) for each in node.seq])
        if isinstance(node, tirx.AttrStmt):
            return tirx.AttrStmt(node.node, node.attr_key, node.value, kept(node.body))
        if isinstance(node, tirx.IfThenElse):
            return tirx.IfThenElse(node.condition, kept(node.then_case), node.else_case and kept(node.else_case))
        if isinstance(node, tirx.For):
            extent = node.loop_var, node.min, node.extent, node.kind
            return tirx.For(*extent, kept(node.body), node.thread_binding, node.annotations)
        return node

    return func.with_body(kept(func.body))


def _with_pointers(func: tirx.PrimFunc) -> tirx.PrimFunc:
    pointers = [tirx.Var(buffer.name, PointerType(PrimType(str(buffer.dtype)), "global")) for buffer in func.params]
    declared = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(func.params, pointers, strict=True)]
    around = _write_margins(pointers[-1], [int(n) for n in func.attrs[MARGINS]]) if MARGINS in func.attrs else []
    body: tirx.Stmt = tirx.SeqStmt([*declared, *around, func.body])
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", value), body)
    return tirx.PrimFunc(pointers, body, PrimType("int32"), func.attrs)


def _with_status(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Gives 0 where it ends."""
    return func.with_body(tirx.SeqStmt([func.body, tirx.stmt.Return(tirx.IntImm("int32", 0))]))
