"""Schedules that misbehave; without torch, as the process that compiles is."""

from __future__ import annotations

import os
import time

from tvm import tirx


def nothing(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func


def refuses(func: tirx.PrimFunc) -> tirx.PrimFunc:
    raise ValueError("first line\nno loop of that name")


def hangs(func: tirx.PrimFunc) -> tirx.PrimFunc:
    time.sleep(600)
    return func


def dies(func: tirx.PrimFunc) -> tirx.PrimFunc:
    os.abort()


def eats_memory(func: tirx.PrimFunc) -> tirx.PrimFunc:
    bytearray(1 << 40)
    return func


def prints(func: tirx.PrimFunc) -> tirx.PrimFunc:
    os.write(1, b"not an answer\n")
    return func
