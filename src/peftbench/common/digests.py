"""Hashes of tensors: how a start, a delta and a backbone are told apart, to the bit."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def digests(state: dict[str, Tensor]) -> dict[str, str]:
    """name -> sha256 of each tensor's bytes (on several threads: hashing releases the lock)."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(state, pool.map(digest, state.values()), strict=True))


def digest(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes."""
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    return hashlib.sha256(data.numpy().data).hexdigest()
