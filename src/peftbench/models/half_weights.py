"""Frozen weights in half precision: cast once, and not in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers whose weights autocast casts; what extends them has its own way of computing and is left alone."""


@contextmanager
def half_weights(model: nn.Module) -> Iterator[None]:
    """Within it frozen layers keep their weights in autocast's type from their first pass on. The bits stay.

    Autocast itself keeps what it casts of weights that train, and only within a step; frozen ones it casts each time
    that they are used. The copies take half of the weights' memory more. Hooks, names and files know nothing of it.
    """
    changed = [layer for layer in model.modules() if _is_frozen(layer)]
    for layer in changed:
        layer.forward = _HalfForward(layer)
    try:
        yield
    finally:
        for layer in changed:
            layer.__dict__.pop("forward", None)


def _is_frozen(layer: nn.Module) -> bool:
    if type(layer) not in KINDS or "forward" in vars(layer):
        return False
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.dtype == torch.float32 and not weight.requires_grad and not weight.is_meta


class _HalfForward:
    """A layer's `forward` with copies of its weights; without autocast, or once it trains, it is the plain one."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._kept: dict[str, tuple[tuple[object, ...], Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        layer, device = self.layer, x.device.type
        if layer.weight.requires_grad or not torch.is_autocast_enabled(device):
            plain: Tensor = type(layer).forward(layer, x)
            return plain
        half = torch.get_autocast_dtype(device)
        # A bias that trains is left to autocast, which keeps its copy for the step.
        bias = layer.bias if layer.bias is None or layer.bias.requires_grad else self._cast("bias", layer.bias, half)
        compute: Callable[..., Tensor] = F.linear if isinstance(layer, nn.Linear) else layer._conv_forward
        return compute(x, self._cast("weight", layer.weight, half), bias)

    def _cast(self, name: str, tensor: Tensor, half: torch.dtype) -> Tensor:
        made_of = (id(tensor), tensor._version, tensor.device, half)
        kept = self._kept.get(name)
        if kept is None or kept[0] != made_of:
            with torch.no_grad():
                kept = self._kept[name] = made_of, tensor.to(half)
        return kept[1]
