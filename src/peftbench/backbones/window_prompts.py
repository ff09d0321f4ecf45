"""Tokens of a method's own in every window of a Swin transformer, which window tokens attend to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.backbone import Backbone

WindowTokens = Callable[[int, int], Tensor]
"""From the index of a block and a number of images to tokens (B, p, d), or (1, p, d) where all images have the same."""


def block_widths(backbone: Backbone) -> list[int]:
    """The width of each block in order; empty where the backbone is no Swin transformer of the first version."""
    return [block.dim for block in _blocks(backbone)]


def add_window_tokens(backbone: Backbone, tokens: WindowTokens) -> None:
    """Has each block's own tokens enter all of its windows, without a position; its block forgets them again.

    They pass the block's norm, and windows attend to them without bias or mask. What a block would make of them itself
    is not computed: the next block has others.

    Args:
        backbone: one with `block_widths`.
        tokens: of a module in `backbone.net`, so that a copy of the backbone has its own.
    """
    for index, block in enumerate(_blocks(backbone)):
        block.register_forward_pre_hook(_count_images)
        block.attn.forward = partial(_attend, block, index, tokens)


def _blocks(backbone: Backbone) -> list[Any]:
    net = backbone.net
    if not isinstance(net, SwinTransformer):
        return []
    stages: Any = net.layers
    blocks = [block for stage in stages for block in stage.blocks]
    return blocks if all(type(block.attn) is WindowAttention for block in blocks) else []


def _count_images(block: Any, given: tuple[Tensor, ...]) -> None:
    block.attn.images = given[0].shape[0]  # windows of all images come in one row


def _attend(block: Any, index: int, tokens: WindowTokens, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """What timm's window attention gives, with tokens that all windows of an image attend to besides.

    Legend: W windows of an image, B images, n tokens of a window, p added ones, h heads, d width.

    Args:
        x: (B W, n, d), image after image.
        mask: (W, n, n), 0 or negative.
    """
    attention = block.attn
    rows, n, width = x.shape
    images = attention.images
    windows = rows // images
    heads = (attention.num_heads, width // attention.num_heads)
    added = block.norm1(tokens(index, images).to(x.dtype, copy=True))  # torch counts no FLOPs of a parameter's view
    query, key, value = attention.qkv(x).reshape(rows, n, 3, *heads).permute(2, 0, 3, 1, 4).unbind(0)  # (B W, h, n, ·)
    _, more_keys, more_values = attention.qkv(added).reshape(*added.shape[:2], 3, *heads).permute(2, 0, 3, 1, 4)
    bias = attention._get_rel_pos_bias()  # (1, h, n, n)
    if mask is not None:
        bias = bias + mask.unsqueeze(1)  # (W, h, n, n)
        bias = bias.repeat(images, 1, 1, 1)
    bias = F.pad(bias, (added.shape[1], 0))
    key, value = (
        torch.cat([_for_windows(more, images, windows), of_window], 2)
        for more, of_window in ((more_keys, key), (more_values, value))
    )
    dropped = attention.attn_drop.p if attention.training else 0.0
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropped)
    return attention.proj_drop(attention.proj(out.transpose(1, 2).reshape(rows, n, width)))


def _for_windows(of_images: Tensor, images: int, windows: int) -> Tensor:
    """(B or 1, h, p, ·) of each image for each of its windows, (B W, h, p, ·)."""
    return of_images.unsqueeze(1).expand(images, windows, -1, -1, -1).flatten(0, 1)
