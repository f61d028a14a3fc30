"""Schedules, one file per family of kernels. A schedule takes an unscheduled PrimFunc and knobs, and returns a scheduled one.

Blocks have agreed names: "acc" is a reduction to be kept in registers, every other block but the last is
inlined, and the last block writes the kernel's result.
"""
