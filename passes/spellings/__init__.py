"""How torch spells the operations: one rule per operation, each beside the names that lead to it. Used by canonicalise.

A rule takes the emitter `e` and the arguments as torch names them. What depends on the image is a node of the
new graph; everything else is already a plain value or a tensor. Called as `e("relu", x)` the emitter adds a node.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

from perse_compile.passes.spellings import activations, arithmetic, layers, padding, parts, pools, products, shapes
from perse_compile.passes.spellings.batch import takes_moved
from perse_compile.passes.spellings.rules import Rule, Unsupported, nothing, rank, unchanged, unchanged_module

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "PLAIN_FUNCTIONS", "Unsupported"]

takes_moved(unchanged)
takes_moved(rank)

MODULES: dict[type[nn.Module], Rule] = {nn.Identity: unchanged_module}
MODULES |= layers.MODULES | activations.MODULES | pools.MODULES | shapes.MODULES | padding.MODULES

METHODS: dict[str, Rule] = dict.fromkeys(("contiguous", "clone", "detach", "to", "float", "type", "type_as"), unchanged)
METHODS |= products.METHODS | activations.METHODS | arithmetic.METHODS | pools.METHODS | shapes.METHODS | parts.METHODS

FUNCTIONS: dict[Any, Rule] = {torch._assert: nothing}
FUNCTIONS |= layers.FUNCTIONS | activations.FUNCTIONS | arithmetic.FUNCTIONS
FUNCTIONS |= pools.FUNCTIONS | shapes.FUNCTIONS | parts.FUNCTIONS | padding.FUNCTIONS | products.FUNCTIONS

# Functions on plain numbers and tuples, which are computed rather than compiled.
PLAIN_FUNCTIONS: set[Any] = {
    operator.floordiv, operator.mod, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    int, float, bool, len, min, max, round, tuple, list,
}  # fmt: skip
