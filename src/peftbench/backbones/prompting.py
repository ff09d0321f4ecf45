"""Tokens of a method's own inside a vision transformer: behind its prefix tokens, and in none of its taps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from peftbench.backbones.backbone import Backbone

Tokens = Callable[[int, int], Tensor]
"""From the index of a block and a number of images to tokens (B, p, d)."""


def takes_tokens(backbone: Backbone) -> bool:
    """Whether every block takes any number of tokens, and nothing of where those lie that have no position.

    So in timm's plain vision transformers (ViT, DeiT, DINOv2, CLIP, SigLIP), and in those that rotate by position (EVA,
    DINOv3), which leave tokens without one as they are. Others add biases between positions (BEiT), or have maps.
    """
    net, taps = backbone.net, backbone.facts.taps
    blocks = [f"blocks.{i}" for i in range(len(getattr(net, "blocks", ())))]
    return isinstance(net, VisionTransformer | Eva) and [tap.module for tap in taps] == blocks


def patch_pixels(backbone: Backbone) -> int:
    """How many pixels a patch has."""
    height, width = backbone.net.patch_embed.patch_size
    return int(height * width)


def add_tokens(backbone: Backbone, count: int, tokens: Tokens, every_block: bool, pooled: bool = False) -> None:
    """Has `count` tokens enter the first block behind the prefix tokens, and leave the taps again.

    With `every_block` those of a block take the place of what the block before left there; else they pass all blocks.

    Args:
        backbone: one that `takes_tokens`.
        tokens: of a module in `backbone.net`, so that a copy of the backbone has its own.
        pooled: whether those that leave the last block are pooled with the patches, where the mean is pooled.
    """
    for index, block in enumerate(backbone.net.blocks):
        if index == 0 or every_block:
            block.register_forward_pre_hook(partial(_enter, tokens, index, backbone.facts.prefix, count))
        if getattr(backbone.net, "rope", None) is not None:  # what is rotated begins behind so many tokens
            block.attn.num_prefix_tokens += count
    backbone.added_tokens, backbone.pools_added = count, pooled


def _enter(tokens: Tokens, index: int, prefix: int, count: int, block: Any, given: tuple[Tensor, ...]) -> Any:
    """The inputs of a block, with its tokens in their place."""
    x, *more = given
    behind = prefix + (count if index else 0)
    own = tokens(index, x.shape[0]).to(x.dtype)  # len() would fix the batch in an exported graph
    return (torch.cat([x[:, :prefix], own, x[:, behind:]], 1), *more)
