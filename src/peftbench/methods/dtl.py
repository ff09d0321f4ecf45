"""DTL (Fu et al., AAAI 2024, arXiv 2312.07856): a narrow stream beside the blocks, fed back into the late ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.backbones.facts import grid_of
from peftbench.common.amounts import plural
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import AboveZero, Positive
from peftbench.methods.base import Method, Plan, freeze


@dataclass(frozen=True)
class DTL(Method):
    """A stream of low-rank updates reads the input of every block, and is added to what the later half of them give.

    Source: DTL and DTL+ (arXiv 2312.07856). Our reading: the backbone pools as it is used to (the official code takes
    the mean of the patches before the last norm); plain ViTs only, Swin's stages are left out.

    Equation: h_0 = 0, h_{l+1} = h_l + x_l A_lᵀ B_lᵀ with the input x_l (N, d) of block l, A_l (r, d) and B_l (d, r);
    x_{l+1} = block_l(x_l) + s(h_{l+1}) for l ≥ `first`, s(h) = h·sigmoid(beta h). Below, x_{l+1} = block_l(x_l). B
    starts at zero, so that nothing is added at the start. With `plus` (DTL+) s(h) of the patches passes one depthwise
    3 x 3 convolution on their grid, shared by all blocks and without a bias; class and register tokens bypass it.

    Place: beside the blocks; the sum joins the residual stream behind a block.

    Cost: backward runs through the blocks behind `first` alone. What the frozen blocks give is the same in every epoch
    and is kept (`taps=`), so that only the blocks behind run. Nothing merges: the stream stays beside the weights.

    Avoid when: the head's pooling and the last blocks are right as they are (a side net is cheaper), or early features
    have to change.
    """

    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    prefix: ClassVar[Literal["", "last", "all"]] = "all"
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"dtl_plus": {"plus": True}}

    rank: Positive = 2
    first: int | None = None
    beta: AboveZero = 100.0
    plus: bool = False

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        for key in ("rank", "beta"):
            if (value := getattr(self, key)) <= 0:
                raise UserError(f"method.{key}={value}: expected a number above 0.")
        if self.first is not None and self.first < 1:
            raise UserError(
                f"method.first={self.first}: blocks are counted from 0, and the first one must stay as it is, since "
                f"the stream reads what frozen blocks give; expected at least 1."
            )
        taps = facts.taps
        if len(taps) < 2 or any(tap.layout != "NLC" or tap.shape != taps[0].shape for tap in taps):
            raise Refusal(
                f"method=dtl: {facts.name} has no sequence of equal blocks of tokens; method=losa and method=lora work."
            )
        if self.first is not None and self.first >= len(taps):
            raise UserError(
                f"method.first={self.first}: {facts.name} has {plural(len(taps), 'block')}, counted from 0; expected "
                f"less than that."
            )
        if self.rank > taps[0].channels:
            raise UserError(f"method.rank={self.rank}: {facts.name} is {taps[0].channels} wide; expected at most that.")
        if self.plus and taps[0].grid is None:
            raise Refusal(f"method.plus=true: the tokens of {facts.name} lie on no grid; method.plus=false works.")

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        count = len(backbone.facts.taps)
        first = count // 2 if self.first is None else self.first
        Stream(self, backbone, first).attach(backbone)


class Stream(nn.Module):
    """h, between the blocks of one pass. Its parameters are the backbone's submodule `stream`.

    What frozen blocks are read for is summed up where it is first needed, in one product.

    Args:
        spec: the options.
        backbone: whose blocks are its taps.
        first: the first block, counted from 0, to whose output it is added.
    """

    def __init__(self, spec: DTL, backbone: Backbone, first: int) -> None:
        super().__init__()
        taps, like = backbone.facts.taps, next(backbone.net.parameters())
        width, self.first, self.last = taps[0].channels, first, len(taps) - 1
        self.beta, self.prefix, self.tap = spec.beta, backbone.facts.prefix, taps[0]
        self.down = nn.ParameterList([like.new_empty(spec.rank, width, dtype=torch.float32) for _ in taps])
        self.up = nn.ParameterList([like.new_zeros((width, spec.rank), dtype=torch.float32) for _ in taps])
        for parameter in self.down:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False) if spec.plus else None
        self._clear()

    def attach(self, backbone: Backbone) -> None:
        """Has the blocks hand on their inputs, and take what is added to their outputs."""
        backbone.stream = self
        for i, tap in enumerate(backbone.facts.taps):
            backbone.net.get_submodule(tap.module).register_forward_hook(partial(self._follow, i))

    def _clear(self) -> None:
        self._sum: Tensor | None = None
        self._narrow: list[Tensor] = []

    def _follow(self, block: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """A block's output with what is added to it; None leaves it as it is."""
        if block == 0:
            self._clear()
        self._narrow.append(F.linear(args[0], self.down[block]))
        if block < self.first:
            return None
        back = torch.cat(list(self.up[block + 1 - len(self._narrow) : block + 1]), 1)
        added = F.linear(torch.cat(self._narrow, -1), self.beta * back)  # beta h, so that s(h) is SiLU over beta
        self._sum = added if self._sum is None else self._sum + added
        self._narrow = []
        given = F.silu(self._sum)
        if block == self.last:
            self._clear()  # nothing of this pass is kept after it
        return torch.add(output, self._spread(given), alpha=1 / self.beta)

    def _spread(self, given: Tensor) -> Tensor:
        if self.spread is None:
            return given
        tokens, patches = given[:, : self.prefix], given[:, self.prefix :]
        height, width = grid_of(given, self.tap, self.prefix)
        maps = patches.transpose(1, 2).unflatten(2, (height, width))
        return torch.cat([tokens, self.spread(maps).flatten(2).transpose(1, 2).to(tokens.dtype)], 1)
