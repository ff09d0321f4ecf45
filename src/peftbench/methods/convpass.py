"""Convpass (Jie and Deng, 2022, arXiv 2207.07039): bottlenecks with a convolution, beside attention and MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, Block
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.block_branches import add_behind, add_to_middle, branches_on_blocks
from peftbench.methods.shared.low_rank_update import drop_path
from peftbench.methods.shared.spatial_branch import at_centre, over_positions, refuse_without_grid


@dataclass(frozen=True)
class Convpass(Method):
    """Bottlenecks with a convolution between their maps, beside the attention and the MLP; the rest is frozen.

    Source: Jie and Deng (arXiv 2207.07039). Our reading: hybrids, whose maps have one behind each block, and whose
    blocks of tokens are left alone.

    Equation: C(u) = Wu drop(q(conv(q(Wd u + bd)))) + bu with q(v) = v sigmoid(1.702 v), u (…, d), Wd (r, d), Wu (d, r),
    and conv 3 x 3 from r to r channels with a bias, over the patches on their grid; a class or register token is an
    image of one pixel. m = x + attn(norm1 x) + s C1(norm1 x), y = m + mlp(norm2 m) + s C2(norm2 m), with drop-path as
    the block's own.

    Place: beside the attention and the MLP of each block (`layers=attn`: beside the attention alone).

    Cost: the whole backward pass; kept beside the weights at prediction.

    Avoid when: the backbone is a CNN, which has a convolution in every block already (refused), or prediction may cost
    nothing more.
    """

    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    branched: ClassVar[bool] = True

    rank: Positive = 8
    scale: float = 1.0
    dropout: Share = 0.1
    init: Literal["xavier", "identity"] = "xavier"
    layers: Literal["all", "attn"] = "all"

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        if not self.scale:
            raise UserError("method.scale=0.0: nothing would be added; give another number, such as 1.")
        if not _attends(backbone):
            raise Refusal(
                f"method=convpass: {facts.name} has no attention to stand beside (a CNN has a convolution in every "
                f"block already); method=adapter and method=lora work."
            )
        chosen = self._chosen(backbone)
        if not chosen:
            raise Refusal(
                f"method=convpass: {facts.name} has no blocks of maps, nor of an attention and an MLP with a norm "
                f"before each; method=adapter works."
            )
        for block in chosen:
            refuse_without_grid("convpass", facts.name, block)

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        chosen = self._chosen(backbone)
        why = "its tokens have no norm before both an attention and an MLP"
        return {block.module: why for block in backbone.facts.blocks if block not in chosen}

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        net = backbone.net
        like = next(p for p in net.parameters() if p.is_floating_point())
        for block in self._chosen(backbone):
            drops = [_drop_path(net, block, name) for name in ("drop_path1", "drop_path2", "drop_path")]
            if not block.has_middle:
                add_behind(net, block, ConvBottleneck(self, block, max(drops), like), "output")
                continue
            add_to_middle(net, block, ConvBottleneck(self, block, drops[0], like), "first")
            if self.layers == "all":
                add_behind(net, block, ConvBottleneck(self, block, drops[1], like), "second")

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        return branches_on_blocks(backbone)

    def _chosen(self, backbone: Backbone) -> list[Block]:
        return [block for block in backbone.facts.blocks if block.has_middle or block.layout != "NLC"]


class ConvBottleneck(nn.Module):
    """The branch of Convpass, s C of its equation, over tokens or maps of a block's width.

    Wd starts with Xavier's uniform values, the convolution with such or as the identity, all else at zero.

    Args:
        options: of the method.
        block: whose layout, grid and width it is for.
        drop_path: the share of images for which it is dropped.
        like: a tensor of the type and device that it is made for.
    """

    def __init__(self, options: Convpass, block: Block, drop_path: float, like: Tensor) -> None:
        super().__init__()
        self.block, self.dropout, self.drop_path, self.scale = block, options.dropout, drop_path, options.scale
        width, rank = block.channels, options.rank
        self.down = nn.Parameter(like.new_empty(rank, width))
        self.down_bias = nn.Parameter(like.new_zeros(rank))
        self.conv = nn.Conv2d(rank, rank, 3, padding=1, device=like.device, dtype=like.dtype)
        self.up = nn.Parameter(like.new_zeros(width, rank))
        self.up_bias = nn.Parameter(like.new_zeros(width))
        nn.init.xavier_uniform_(self.down)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        if options.init == "xavier":
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            nn.init.dirac_(self.conv.weight)

    def forward(self, u: Tensor) -> Tensor:
        """s C(u), in the shape of u: (B, N, d), (B, H, W, d), or (B, d, H, W)."""
        channels_first = self.block.layout == "NCHW"
        u = u.movedim(1, 3) if channels_first else u
        narrow = _quick_gelu(F.linear(u, self.down, self.down_bias))
        narrow = _quick_gelu(over_positions(narrow, self.block, self.conv, lambda v: at_centre(v, self.conv)))
        if self.dropout:
            narrow = F.dropout(narrow, self.dropout, self.training)
        added = F.linear(narrow, self.scale * self.up, self.scale * self.up_bias)
        added = drop_path(added, self.drop_path, self.training)
        return added.movedim(3, 1) if channels_first else added


def _quick_gelu(v: Tensor) -> Tensor:
    return v * torch.sigmoid(1.702 * v)


def _attends(backbone: Backbone) -> bool:
    """Whether some module of the blocks is an attention over positions."""
    inside = tuple(f"{block.module}." for block in backbone.facts.blocks)
    kinds = (type(m).__name__ for n, m in backbone.net.named_modules() if n.startswith(inside))
    return any(b.has_middle for b in backbone.facts.blocks) or any("attention" in kind.lower() for kind in kinds)


def _drop_path(net: nn.Module, block: Block, name: str) -> float:
    """The share of images that a drop-path of the block drops; 0 where it has none."""
    return float(getattr(net.get_submodule(block.module)._modules.get(name), "drop_prob", 0.0) or 0.0)
