"""Taps in 8 bits: int8 values with a scale for each image and channel, in the tap's own precision.

Symmetric rounding to the nearest of 255 values, q = round(x / s) with s = max|x| / 127 over the positions of a channel
in one image; so no value is more than s / 2 away from its own (and, in half precision, rounded once more).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 16
"""Positions a channel below which scales would take much of what 8 bits save: such a tap stays as it is."""


def encoded(taps: Sequence[Tensor], maps_channels_first: bool) -> list[Tensor]:
    """What is stored of taps: (values int8, scales) for each, or the tap itself where it has few positions.

    Args:
        taps: (B, C), (B, N, C), and maps (B, C, H, W) or (B, H, W, C); on the meta device for shapes alone.
        maps_channels_first: which of the two.
    """
    stored = []
    for tap in taps:
        positions = tuple(range(1, tap.ndim - 1))
        if tap.ndim == 4 and maps_channels_first:
            positions = (2, 3)
        if tap[:1].numel() < LEAST * tap.shape[1 if positions[-1:] == (3,) else -1]:
            stored.append(tap)
            continue
        largest = tap.abs().amax(positions, keepdim=True).float()
        scale = (largest / 127).to(tap.dtype)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        values = (tap.float() / scale.float()).round_().clamp_(-127, 127).to(torch.int8)
        stored += [values, scale]
    return stored


def decoded(stored: Sequence[Tensor]) -> list[Tensor]:
    """The taps of what `encoded` gave, in their own precision; whole taps are passed on."""
    taps, coming = [], iter(stored)
    for tensor in coming:
        taps.append(tensor * next(coming) if tensor.dtype == torch.int8 else tensor)
    return taps
