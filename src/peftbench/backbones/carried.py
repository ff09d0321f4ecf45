"""Tokens that are no part of a tap, and that pooling reads all the same: the last tap carries them along.

They lie on the tensor itself, so that no pooling can read those of another pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NAME = "_peftbench_added_tokens"


def carry(tap: Tensor, tokens: Tensor) -> None:
    """Has a tap (B, N, d) carry tokens (B, p, d)."""
    setattr(tap, _NAME, tokens)


def with_carried(tap: Any, prefix: int) -> Tensor:
    """The tap with the tokens that it carries behind its prefix tokens: (B, N + p, d).

    Raises:
        RuntimeError: it carries none, as after any operation on it.
    """
    tokens = getattr(tap, _NAME, None)
    if tokens is None:
        raise RuntimeError("the last tap has lost the tokens that are pooled with it")
    return torch.cat([tap[:, :prefix], tokens, tap[:, prefix:]], 1)
