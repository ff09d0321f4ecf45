"""LST, Ladder Side-Tuning (Sung et al., 2022, arXiv 2206.06522): a narrow copy of the backbone climbs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, Facts, Tap, layouts
from peftbench.backbones.facts import grid_of
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive
from peftbench.methods.base import Method, Plan, Side, freeze

TEMPERATURE = 0.1
"""T of the gates' sigmoid, as in the paper's code."""


@dataclass(frozen=True)
class LST(Method):
    """Ladder side-tuning. With b_i the taps, of width d_i, and a side path of width d_i // reduction:

        h_0 = block_0(down_0 b_0)
        h_i = block_i(mu_i h_{i-1} + (1 - mu_i) down_i b_i)     mu_i = sigmoid(alpha_i / 0.1), alpha_i starts at 0
        out = b_L + up(LN(h_L))                                 up starts at zero: out = b_L

    Blocks are scaled-down ones of the backbone's kind: where a tap is tokens, a transformer block (attention over all
    tokens with one head per 64 channels of the backbone, MLP of four times the width); where it is a map, a
    pre-activation residual block of two 3 x 3 convolutions.

    Our reading:

    - Blocks start at random. The paper starts them from the backbone's weights, pruned by Fisher information.
    - `up` is added to the last tap and starts at zero, so that training starts as the linear probe. In the paper's
      code the side path's output takes the place of the backbone's.
    - The side path starts from the first tap instead of the embedded input, and so has no gate there.
    - Hierarchical vision transformers whose taps are maps (Swin) get convolutional blocks: attention over all of a
      56 x 56 grid would cost more than the backbone.
    - Where width or grid change between taps, h is averaged to the new grid and passes a linear layer.

    Options:
        reduction: of the width.
        drop: indices of taps without a side block, as the paper drops some; they are not read.

    Source: Sung et al., 2022, arXiv 2206.06522, on language models.
    Equation: h_i = block_i(μ_i h_{i-1} + (1 - μ_i) down_i b_i); out = b_L + up(LN(h_L)).
    Place: a narrow copy of the backbone that climbs beside it and reads every tap.
    Cost: taps are computed once and kept; only the narrow net runs backward. It stays beside the backbone at
        prediction, at roughly 1 / reduction of its width.
    Avoid when: parameters are counted: on ViT-B/16 it has twelve times LoSA's.
    """

    side: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True

    reduction: Positive = 8
    drop: tuple[int, ...] = ()

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        if self.reduction < 1:
            raise Refusal(f"method.reduction={self.reduction}: expected at least 1.")
        if wrong := [i for i in self.drop if not 0 <= i < len(facts.taps)]:
            raise UserError(
                f"method.drop={list(self.drop)}: {facts.name} has no tap {wrong[0]}; it has 0 to {len(facts.taps) - 1}."
            )
        if len(set(self.drop)) == len(facts.taps):
            raise UserError(f"method.drop={list(self.drop)}: leaves no tap of {facts.name}; expected fewer.")
        layouts.require_maps(facts, range(len(facts.taps)), "lst")
        narrowest = min(facts.taps, key=lambda tap: tap.channels)
        if self.reduction > narrowest.channels:
            raise Refusal(
                f"method.reduction={self.reduction}: {narrowest.module} of {facts.name} has {narrowest.channels} "
                f"channels; expected at most that."
            )

    def adapt(self, backbone: Backbone, plan: Plan) -> Side:
        freeze(backbone)
        return Ladder(backbone.facts, self)


class Ladder(Side):
    """The side net: from taps to the same taps, with its output added to the last."""

    def __init__(self, facts: Facts, options: LST) -> None:
        super().__init__()
        kept = [i for i in range(len(facts.taps)) if i not in options.drop]
        self.last = last = facts.taps[-1]
        self.wanted = self.given = tuple(dict.fromkeys([*kept, len(facts.taps) - 1]))
        self.layout = last.layout
        self.prefix = facts.prefix if self.layout == "NLC" else 0
        self.rungs = nn.ModuleList()
        below = None
        for i in kept:
            tap = facts.taps[i]
            width = tap.channels // options.reduction
            self.rungs.append(Rung(tap, width, below, self.prefix))
            below = width
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, last.channels, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        side, grid = None, (0, 0)
        for rung, tap in zip(self.rungs, taps, strict=False):
            side, grid = rung(tap, side, grid)
        assert side is not None
        side = layouts.resize_grid(side, self.prefix, grid, grid_of(taps[-1], self.last, self.prefix))
        side = self.norm(side.mT).mT
        return [*taps[:-1], taps[-1] + layouts.project_to_tap(side, self.up.weight, self.layout, taps[-1].shape)]


class Rung(nn.Module):
    """One step of the ladder: what is below it and the tap, through a gate and a block.

    Args:
        tap: in the backbone.
        width: of the side path.
        below: the width of the side path below, if there is one.
    """

    def __init__(self, tap: Tap, width: int, below: int | None, prefix: int) -> None:
        super().__init__()
        self.tap, self.layout, self.prefix = tap, tap.layout, prefix
        self.down = nn.Linear(tap.channels, width, bias=False)
        self.step = nn.Linear(below, width, bias=False) if below not in (None, width) else None
        if below is not None:
            self.alpha = nn.Parameter(torch.zeros(1))
        self.block = Attention(width, tap.channels // 64) if tap.layout == "NLC" else Convolution(width)

    def forward(self, tap: Tensor, below: Tensor | None, old: layouts.Grid) -> tuple[Tensor, layouts.Grid]:
        """h (B, c, N) and its grid, from a raw tap and the state below on its grid."""
        grid = grid_of(tap, self.tap, self.prefix)
        side = layouts.project_tap(tap, self.down.weight, self.layout)
        if below is not None:
            below = layouts.resize_grid(below, self.prefix, old, grid)
            if self.step is not None:
                below = layouts.pointwise(below, self.step.weight)
            mu = torch.sigmoid(self.alpha / TEMPERATURE)
            side = torch.lerp(side, below, mu.to(side.dtype))
        return self.block(side, grid), grid


class Attention(nn.Module):
    """A pre-norm transformer block on tokens (B, c, N): attention over all of them, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = max(h for h in range(1, max(1, heads) + 1) if width % h == 0)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, grid: layouts.Grid) -> Tensor:
        x = x.mT
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (x + self.mlp(self.norm2(x))).mT


class Convolution(nn.Module):
    """A pre-activation residual block on a map (B, c, N) of h x w positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor, grid: layouts.Grid) -> Tensor:
        y = self.conv1(F.relu_(self.norm1(x)).unflatten(2, grid))
        return x + self.conv2(F.relu_(self.norm2(y))).flatten(2)
