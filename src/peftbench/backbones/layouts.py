"""Taps of any layout as (B, C, N), the form that side nets compute in: maps flattened, tokens with the prefix first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.facts import Facts, Grid
from peftbench.common.errors import Refusal


def flatten_tap(tap: Tensor, layout: str) -> Tensor:
    """A raw tap as (B, C, N), without a copy."""
    return tap.flatten(2) if layout == "NCHW" else tap.flatten(1, -2).mT


def project_tap(tap: Tensor, weight: Tensor, layout: str) -> Tensor:
    """`weight` (K, C) at every position of a raw tap: (B, K, N). The tap, which is large, is not copied."""
    if layout == "NCHW":
        return pointwise(tap.flatten(2), weight)
    return F.linear(tap.flatten(1, -2), weight).mT


def project_to_tap(x: Tensor, weight: Tensor, layout: str, shape: Sequence[int]) -> Tensor:
    """`weight` (C, K) at every position of `x` (B, K, N), as a raw tap of `shape`."""
    if layout == "NCHW":
        return pointwise(x, weight).view(shape)
    return F.linear(x.mT, weight).view(shape)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """`weight` (K, C) at every position of `x` (B, C, N): (B, K, N)."""
    images, channels, positions = x.shape
    if weight.shape[0] > positions:  # image by image, the gradient of `weight` would be larger than `x`
        all_positions = x.transpose(0, 1).reshape(channels, images * positions)
        return torch.mm(weight, all_positions).view(-1, images, positions).transpose(0, 1)
    return torch.bmm(weight.expand(images, -1, -1), x)  # three times as fast as a convolution on a CPU


def resize_grid(x: Tensor, prefix: int, old: Grid, new: Grid) -> Tensor:
    """`x` (B, C, N) averaged from one grid to another; prefix tokens stay as they are.

    Halving is a 2 x 2 mean, with the odd row or column at the end averaged alone; anything else is adaptive.
    """
    if old == new:
        return x
    map_ = x[:, :, prefix:].unflatten(2, old)
    if new == tuple(math.ceil(n / 2) for n in old):
        map_ = F.avg_pool2d(map_, 2, ceil_mode=True)
    else:
        map_ = F.adaptive_avg_pool2d(map_, new)
    return torch.cat([x[:, :, :prefix], map_.flatten(2)], 2) if prefix else map_.flatten(2)


def require_maps(facts: Facts, indices: Sequence[int], method: str) -> None:
    """Refuses taps (`indices` in `facts.taps`) that cannot be laid out on a grid, or that have nothing on it.

    Raises:
        Refusal: which tap, and what works.
    """
    for tap in (facts.taps[i] for i in indices):
        tokens = tap.shape[0] - facts.prefix
        if 0 in tap.shape or (tap.layout == "NLC" and tokens < 1):
            raise Refusal(
                f"method={method}: {tap.module} of {facts.name} has no position left at {facts.input_size} pixels "
                f"(its output is {' x '.join(map(str, tap.shape))}); give a larger data.size."
            )
        if tap.grid is None:
            raise Refusal(
                f"method={method}: {tap.module} of {facts.name} gives {' x '.join(map(str, tap.shape))}, which is no "
                f"map and no grid of tokens; method=linear works."
            )
    if facts.prefix and len({facts.taps[i].layout for i in indices}) > 1:
        raise Refusal(
            f"method={method}: {facts.name} has class tokens in some taps and maps in others; method=linear works."
        )
