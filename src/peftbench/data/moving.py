"""Batches to a device, and answers back from it, with one wait for all of their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device; plain numbers in it stay what they are."""
    return _each(batch, lambda tensor: tensor.to(device, non_blocking=device.type != "mps"))


def to_host(answers: Any) -> Any:
    """Answers with their tensors on the CPU. The host waits once for all of them, not for each."""
    waits: set[torch.device] = set()

    def copy(tensor: Tensor) -> Tensor:
        if tensor.is_cuda:
            waits.add(tensor.device)
        return tensor.to("cpu", non_blocking=tensor.is_cuda)

    copied = _each(answers, copy)
    for device in waits:
        torch.cuda.synchronize(device)
    return copied


def _each(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {name: _each(value, change) for name, value in values.items()}
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(_each(value, change) for value in values))
    return [_each(value, change) for value in values] if isinstance(values, list) else values
