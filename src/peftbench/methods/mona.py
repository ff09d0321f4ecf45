"""Mona (Yin et al., CVPR 2025, arXiv 2408.08345): bottlenecks with depthwise convolutions of three sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, Block
from peftbench.common.errors import Refusal
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.block_branches import add_behind, add_to_middle, branches_on_blocks, refuse_containers
from peftbench.methods.shared.spatial_branch import at_centre, over_positions, refuse_without_grid

_SIZES = (3, 5, 7)


@dataclass(frozen=True)
class Mona(Method):
    """Bottlenecks with several convolutions behind the attention and behind the MLP; the rest is frozen, norms too.

    Source: Yin et al. (arXiv 2408.08345). Our reading: `init=zero`, and that a CNN or hybrid has one behind each block.

    Equation: u = LN(x) a + x b (a and b one per channel, from 1e-6 and 1), v = P1 u + c1 with P1 (r, d);
    v <- v + (dw3 + dw5 + dw7)(v) / 3, depthwise on the grid; v <- v + conv1x1 v; x + P2 drop(gelu v) + c2, P2 (d, r).
    A class or register token is an image of one pixel.

    Place: on m = x + attn(norm1 x), in the place of m, and on y = m + mlp(norm2 m), outside of drop-path.

    Cost: the whole backward pass, with three convolutions in each of two branches a block; kept beside the weights.

    Avoid when: a run must start as its backbone (it does so with `init=zero` alone), or time is short.
    """

    keeps_weights: ClassVar[bool] = True
    branched: ClassVar[bool] = True

    rank: Positive = 64
    dropout: Share = 0.1
    init: Literal["trunc_normal", "zero"] = "trunc_normal"

    @property
    def identity_start(self) -> bool:  # type: ignore[override]
        return self.init == "zero"

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        if not facts.blocks:
            raise Refusal(f"method=mona: {facts.name} has no blocks in a row to add to; method=lora works.")
        refuse_containers("mona", backbone)
        for block in facts.blocks:
            refuse_without_grid("mona", facts.name, block)

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        like = next(p for p in backbone.net.parameters() if p.is_floating_point())
        for block in backbone.facts.blocks:
            if block.has_middle:
                add_to_middle(backbone.net, block, MonaBranch(self, block, like), "middle")
            add_behind(backbone.net, block, MonaBranch(self, block, like), "output")

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        return branches_on_blocks(backbone)


class MonaBranch(nn.Module):
    """The branch of Mona, what its equation adds to x, over tokens or maps of a block's width.

    P1 and P2 start from a normal of 0.02, cut at 0.04, P2 at zero where asked; biases at zero, convolutions as torch's.

    Args:
        options: of the method.
        block: whose layout, grid and width it is for.
        like: a tensor of the type and device that it is made for.
    """

    def __init__(self, options: Mona, block: Block, like: Tensor) -> None:
        super().__init__()
        self.block, self.dropout = block, options.dropout
        width, rank, made = block.channels, options.rank, {"device": like.device, "dtype": like.dtype}
        self.norm = nn.LayerNorm(width, **made)  # type: ignore[arg-type]
        self.of_normed = nn.Parameter(like.new_full((width,), 1e-6))
        self.of_input = nn.Parameter(like.new_ones(width))
        self.down = nn.Parameter(like.new_empty(rank, width))
        self.down_bias = nn.Parameter(like.new_zeros(rank))
        self.depthwise = nn.ModuleList(
            nn.Conv2d(rank, rank, size, padding=size // 2, groups=rank, **made)  # type: ignore[arg-type]
            for size in _SIZES
        )
        self.pointwise = nn.Conv2d(rank, rank, 1, **made)  # type: ignore[arg-type]
        self.up = nn.Parameter(like.new_zeros(width, rank))
        self.up_bias = nn.Parameter(like.new_zeros(width))
        for matrix in (self.down, self.up)[: 1 if options.init == "zero" else 2]:
            nn.init.trunc_normal_(matrix, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to x, in its shape: (B, N, d), (B, H, W, d), or (B, d, H, W)."""
        channels_first = self.block.layout == "NCHW"
        x = x.movedim(1, 3) if channels_first else x
        narrow = F.linear(self.norm(x) * self.of_normed + x * self.of_input, self.down, self.down_bias)
        narrow = F.gelu(over_positions(narrow, self.block, self._on_map, self._on_token))
        if self.dropout:
            narrow = F.dropout(narrow, self.dropout, self.training)
        added = F.linear(narrow, self.up, self.up_bias)
        return added.movedim(3, 1) if channels_first else added

    def _on_map(self, v: Tensor) -> Tensor:
        small, medium, large = self.depthwise
        v = v + (small(v) + medium(v) + large(v)) / len(_SIZES)
        return v + self.pointwise(v)

    def _on_token(self, v: Tensor) -> Tensor:
        small, medium, large = (at_centre(v, conv) for conv in self.depthwise)  # type: ignore[arg-type]
        v = v + (small + medium + large) / len(_SIZES)
        return v + at_centre(v, self.pointwise)
