"""VPT, Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv 2203.12119): learned tokens beside those of the patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, add_tokens, add_window_tokens, block_widths, patch_pixels, takes_tokens
from peftbench.common.amounts import size
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Method, Plan, freeze

_MOST_BYTES = 2**50
"""Beyond that no memory is, and counts overflow: our reading."""


@dataclass(frozen=True)
class VPT(Method):
    """p learned prompts (p, d) join the tokens of a vision transformer; nothing else of it trains.

    Source:
        VPT (arXiv 2203.12119). Our reading: prompts stand behind all prefix tokens (class, registers, distillation),
        where the paper's nets have one class token; AdamW instead of SGD; drop-path follows `backbone.drop_path`; on
        Swin prompts of all stages start within the first one's bound.

    Equation:
        deep:      [c_l ; _ ; x_l] = block_l([c_{l-1} ; P_l ; x_{l-1}]),  P_l (p, d) for l = 1 … L;
        shallow:   [c_l ; z_l ; x_l] = block_l([c_{l-1} ; z_{l-1} ; x_{l-1}]),  z_0 = P (p, d);
        with prefix tokens c and patches x. Prompts start uniform in ±√(6 / (3 P² + d)), P the side of a patch.

    Place:
        Behind the position embedding, so that prompts carry no position; `depth=deep` replaces them before every block.
        They are cut off again before taps, tail, pooling and heads. A backbone that pools the mean of its patches so
        pools these alone; `pool=all` averages the prompts, too, as the official code does. Where a backbone rotates by
        position (EVA, DINOv3), prompts are not rotated, as its class token is not. On Swin a block's prompts enter each
        of its windows, without bias or mask; those of an image enter its own windows alone, whatever else the batch
        holds. Its blocks have prompts of their stage's width, so that L p d is Σ_l p d_l.

    Cost:
        Backward through the whole backbone, over a sequence that is p tokens longer. Prediction is over it, too, as
        prompts do not merge. Parameters: L p d deep, p d shallow.

    Avoid when:
        The backbone has no tokens, or biases by position between them (refused, except Swin's first version). With many
        prompts time and memory grow as with more patches. Results vary much between seeds: run several.

    Options:
        prompts: p.
        dropout: share of the prompts' numbers that is dropped in training, anew in every block.
        pool: what a backbone averages that pools the mean: `patches` alone, or `all`, prompts too.
    """

    keeps_weights: ClassVar[bool] = True
    counts_tokens: ClassVar[str] = "prompts"
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"vpt_shallow": {"depth": "shallow"}}

    depth: Literal["deep", "shallow"] = "deep"
    prompts: Positive = 10
    dropout: Share = 0.0
    pool: Literal["patches", "all"] = "patches"

    @property
    def of_pooling(self) -> str:  # type: ignore[override]
        return "" if self.pool == "patches" else f"method.pool={self.pool}"

    def check(self, backbone: Backbone) -> None:
        windows = bool(block_widths(backbone))
        if not (takes_tokens(backbone) or windows):
            raise Refusal(
                f"method=vpt: {backbone.facts.name} {_why_no_prompts(backbone)}; method=lora and method=petah work."
            )
        if windows and self.depth == "shallow":
            raise Refusal(
                f"method=vpt: {backbone.facts.name} attends within windows, between which prompts of the first block "
                f"alone have no way to the next; method.depth=deep and method=lora work."
            )
        if (bytes_ := 4 * self.prompts * sum(self._widths(backbone))) > _MOST_BYTES:
            raise UserError(f"method.prompts={self.prompts}: are {size(bytes_)} by themselves; expected 10 or 50, say.")
        if self.pool == "all" and (windows or backbone.pooling != "avg"):
            why = "attends to prompts within its windows alone" if windows else "pools no mean"
            raise UserError(
                f"method.pool=all: averages prompts with the patches, and {backbone.facts.name} {why} "
                f"(its pooling is '{backbone.pooling}'); leave it out"
                f"{'.' if windows else ', or give +backbone.args.global_pool=avg.'}"
            )

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        bound = math.sqrt(6 / (3 * patch_pixels(backbone) + self._widths(backbone)[0]))
        prompts = Prompts(self._widths(backbone), self.prompts, bound, self.dropout)
        backbone.net.add_module("prompts", prompts)
        if block_widths(backbone):
            add_window_tokens(backbone, prompts.of_block)
        else:
            add_tokens(backbone, self.prompts, prompts.of_block, self.depth == "deep", self.pool == "all")

    def _widths(self, backbone: Backbone) -> list[int]:
        """Of each block with prompts."""
        if widths := block_widths(backbone):
            return widths
        taps = backbone.facts.taps
        return [taps[0].channels] * (len(taps) if self.depth == "deep" else 1)


def _why_no_prompts(backbone: Backbone) -> str:
    """What a backbone that does not take tokens has in their way."""
    tables = any("relative_position" in name for name, _ in backbone.net.named_parameters())
    if any(tap.layout != "NLC" for tap in backbone.facts.taps):
        if tables:
            return "attends within windows of a map, with biases by position, and prompts lie in none of its windows"
        return "computes with feature maps, and has no sequence of tokens that prompts could join"
    if tables:
        return "adds biases by position between its tokens, among which prompts have no place"
    return "is built otherwise than timm's plain vision transformers, whose blocks alone take prompts"


class Prompts(nn.Module):
    """The prompts of each block that has some: `tokens` (blocks, p, d), or one such for each width that there is."""

    tokens: nn.Parameter | nn.ParameterList

    def __init__(self, widths: Sequence[int], count: int, bound: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        stages = [(width, len(list(blocks))) for width, blocks in itertools.groupby(widths)]
        self._place = [(stage, i) for stage, (_, blocks) in enumerate(stages) for i in range(blocks)]
        parts = [nn.Parameter(torch.empty(blocks, count, width)) for width, blocks in stages]
        for part in parts:
            nn.init.uniform_(part, -bound, bound)
        self.tokens = parts[0] if len(parts) == 1 else nn.ParameterList(parts)

    def of_block(self, index: int, images: int) -> Tensor:
        """(B, p, d), with dropout in training."""
        stage, at = self._place[index]
        tokens = self.tokens if isinstance(self.tokens, nn.Parameter) else self.tokens[stage]
        return F.dropout(tokens[at].expand(images, -1, -1), self.dropout, self.training)
