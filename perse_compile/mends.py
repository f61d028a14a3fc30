"""What a model's author can usually do about a forward that cannot be traced or compiled, as part of a message."""

from __future__ import annotations

import re

# Of tracing: (what torch.fx or Python says, the line of the model, what that means, what to do)
TRACING = (
    (
        "cannot be iterated", "",
        "a loop over the parts of a tensor", "take a fixed number of parts: a, b = x.chunk(2, 1), or x[:, i]",
    ),
    (
        "control flow", r"^assert\b",
        "an assert on what tracing does not know", "delete it: images of one size are compiled, their content is free",
    ),
    (
        "control flow", r"\.(shape|size|dim|ndim|numel)\b|\blen\(",
        "a decision by a size that tracing does not know", "if it is the batch's, leave it out: images come one by one",
    ),
    (
        "control flow", "",
        "a decision by the image (control flow)",
        "take the decision outside forward, or write it as arithmetic (torch.relu, torch.clamp)",
    ),
    ("'len' is not supported", "", "len() of a tensor", "write x.shape[0]"),
    (
        "interpreted as an integer", "",
        "a count that tracing does not know", "write the number: only the size of the image is known",
    ),
    (r"\b(int|float|complex)\(\) argument", "", "a number taken out of a tensor", "leave it a tensor"),
    (
        "item assignment", "",
        "an assignment into a tensor", "make a new one of its parts (torch.cat), or multiply with a mask",
    ),
    ("__array|ndarray|numpy", "", "a numpy function on a tensor", "use the one of torch"),
    (
        "", r"torch\.(zeros|ones|full|empty|rand\w*|arange|linspace|tensor|eye)\(",
        "a tensor made in forward", "make it in __init__ (register_buffer), with its sizes as numbers",
    ),
    ("traced_func_name", "", "a scripted module", "give the module that was scripted"),
    ('required "forward"', "", "it has no forward", "let the factory return the whole network"),
)  # fmt: skip
RUNS_IN_TORCH = "does it run in PyTorch? forward must be made of torch operations on its one argument"

# Of operations: (names of the function, method or module, what to do)
OPERATIONS = (
    (
        "gt|lt|ge|le|eq|ne|where|masked_fill|argmax|topk|sort|nonzero|sign|logical_.*",
        "decisions by pixel are not compiled; torch.relu, torch.clamp or F.leaky_relu say many of them",
    ),
    ("item|tolist|numpy", "leave it a tensor"),
    ("rand.*|bernoulli|multinomial|normal_?", "random numbers belong to training; guard them with self.training"),
    ("Fold|fold|Unfold|unfold", "windows that do not overlap are a view and a permute"),
    (
        "LSTM|GRU|RNN|MultiheadAttention|Transformer.*|baddbmm|Embedding",
        "only convolutional classifiers are compiled",
    ),
    (r"\w+[13]d", "only 2D images are compiled"),
)
OTHER_OPERATION = "write it with those in `perse_compile/ops.py`, or leave it out"


def of_tracing(error: str, line: str) -> tuple[str, str]:
    """What went wrong in a line of the model, and what to do, from an error's text."""
    for said, written, reason, mend in TRACING:
        if re.search(said, error) and re.search(written, line):
            return reason, mend
    return error, RUNS_IN_TORCH


def of_operation(name: str) -> str:
    """What to do about an operation that is not compiled."""
    return next((mend for names, mend in OPERATIONS if re.fullmatch(names, name)), OTHER_OPERATION)
