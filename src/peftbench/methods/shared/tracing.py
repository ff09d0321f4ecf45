"""Whether a model runs to be written down, as a graph of its operators, instead of to be computed with."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether a graph is made of what runs: then nothing is patched in place, and no form depends on the batch."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())
