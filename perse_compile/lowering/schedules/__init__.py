"""Schedules, one file per family of kernels: from an unscheduled PrimFunc and knobs to a scheduled one.

Blocks have agreed names: "acc" is a reduction to be kept in registers, every other block but the last is
inlined, and the last block writes the kernel's result.
"""
