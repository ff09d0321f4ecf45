"""Branches with convolutions over a block's positions: tokens on their grid, each class or register token by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Block
from peftbench.common.errors import Refusal, UserError

OnMap = Callable[[Tensor], Tensor]


def over_positions(v: Tensor, block: Block, on_map: OnMap, on_token: OnMap) -> Tensor:
    """What convolutions make of the positions of v (B, H, W, r), or (B, N, r) with the prefix tokens first.

    Args:
        v: of any number of channels, which come last.
        block: where it lies.
        on_map: of a map (B, r, H, W), the same size out.
        on_token: the same of single positions (B, P, r): each is an image of one pixel.

    Raises:
        UserError: tokens of another image size than the net was built for, on no square grid.
    """
    if v.ndim == 4:
        return on_map(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    prefix = block.prefix
    patches = v[:, prefix:].transpose(1, 2).unflatten(2, _grid(v.shape[1] - prefix, block))
    patches = on_map(patches).flatten(2).transpose(1, 2)
    return torch.cat([on_token(v[:, :prefix]), patches], 1) if prefix else patches


def at_centre(v: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A dense or depthwise convolution of single positions (B, P, r) with zeros around: its kernel's centre acts."""
    high, wide = convolution.kernel_size
    kernel = convolution.weight[:, :, high // 2, wide // 2]
    if convolution.groups == 1:
        return F.linear(v, kernel, convolution.bias)
    assert convolution.bias is not None
    return v * kernel[:, 0] + convolution.bias


def refuse_without_grid(method: str, name: str, block: Block) -> None:
    """Raises Refusal where the positions of a block of the model called `name` lie on no grid."""
    if block.grid is None or 0 in block.grid:
        raise Refusal(
            f"method={method}: {block.module} of {name} gives {' x '.join(map(str, block.shape))}, which is no map and "
            f"no grid of tokens; method=adapter works."
        )


def _grid(tokens: int, block: Block) -> tuple[int, int]:
    if block.grid is not None and math.prod(block.grid) == tokens:
        return block.grid
    side = math.isqrt(int(tokens))
    if side * side != tokens:
        raise UserError(
            f"data.size: images give {block.module} {tokens} tokens, which are no square grid; give data.size=[H,W], "
            f"so that the model is built for one size."
        )
    return side, side
