"""The MLP head: several linear layers on the frozen pooled features (Jia et al., ECCV 2022, arXiv 2203.12119).

It is the baseline MLP-3 of the paper on visual prompt tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.common.errors import UserError
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Method, Plan, Side, freeze
from peftbench.methods.shared.feature_norm import FeatureNorm


@dataclass(frozen=True)
class MLP(Method):
    """Hidden layers between the frozen pooled features f (d,) and the head, which is the last of the `layers`.

    Source:
        The baseline MLP-3 of VPT (arXiv 2203.12119), which counts linear layers: two hidden ones and the head. Our
        reading: the head starts as any task's here. Theirs has a bias of -log 99 in all classes, which a softmax takes
        out again.

    Equation:
        h_0 = f;  h_j = dropout(BN(ReLU(W_j h_{j-1} + b_j))), W_j (d, d), for j = 1 … layers - 1.
        The head reads the last h_j.

    Place:
        Behind the backbone's own pooling, before the head.

    Cost:
        Nothing runs backward in the backbone, and only the pooled vector of an image is kept: the smallest of caches.
        Beside the weights at prediction, at the price of `layers - 1` products with one vector. Parameters:
        (layers - 1)(d² + 3 d).

    Avoid when:
        There are few images: it fits features that do not change, and overfits before the linear probe does. Dense
        tasks, which read maps, cannot have it. It does not start as the linear probe.

    Options:
        layers: linear ones, the head among them.
        dropout: share of a hidden layer's outputs that is dropped in training.
    """

    side: ClassVar[bool] = True
    pools: ClassVar[bool] = True

    layers: Positive = 3
    dropout: Share = 0.1

    def check(self, backbone: Backbone) -> None:
        if self.layers < 2:
            raise UserError(
                f"method.layers={self.layers}: counts the head, so that there are no hidden layers; expected at least "
                f"2, and method=linear is the head alone."
            )

    def adapt(self, backbone: Backbone, plan: Plan) -> Side:
        freeze(backbone)
        return HiddenLayers(backbone, self)


class HiddenLayers(Side):
    """The side net: from the pooled features to those of the last hidden layer."""

    condensed = "pooled features"
    layers: Any  # a list of Hidden, whose attributes nn.ModuleList would hide

    def __init__(self, backbone: Backbone, options: MLP) -> None:
        super().__init__()
        self.width = backbone.facts.width
        self.pool = backbone.pool  # a method, so that the backbone is no part of this module
        self.draws = options.dropout > 0
        self.layers = nn.ModuleList(Hidden(self.width, options.dropout) for _ in range(options.layers - 1))

    def condense(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """The features (B, width) that the backbone pools from its last tap."""
        last = taps[-1]
        if last.is_meta:  # shapes are asked for, maybe of a backbone that is not on the meta device
            return [last.new_empty(len(last), self.layers[0].linear.in_features)]
        return [self.pool(last)]

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return self.forward_several([self], taps)[0]

    @classmethod
    def forward_several(cls, nets: Sequence[Side], taps: Sequence[Tensor]) -> list[list[Tensor]]:
        every = [n for n in nets if isinstance(n, HiddenLayers)]
        shape, depth = taps[-1].shape, max(len(n.layers) for n in every)
        drawn: list[Tensor | None] = [None] * depth
        if any(n.draws and n.training for n in every):  # the same for all, as each draws it where it trains alone
            drawn = [torch.rand(shape, device=taps[-1].device) for _ in range(depth)]
        return [[n._features(taps[-1], drawn)] for n in every]

    def _features(self, features: Tensor, drawn: Sequence[Tensor | None]) -> Tensor:
        for layer, numbers in zip(self.layers, drawn, strict=False):
            features = layer(features, numbers)
        return features


class Hidden(nn.Module):
    """A linear layer, ReLU, batch norm and dropout."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.linear, self.norm = nn.Linear(width, width), FeatureNorm(width)
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, drawn: Tensor | None) -> Tensor:
        """From (B, d) to (B, d). What `drawn`, numbers (B, d) in [0, 1), has below the rate of dropout is dropped."""
        x = self.norm(self.linear(x).relu())
        if not self.training or not self.dropout or drawn is None:
            return x
        return x * (drawn >= self.dropout) / (1 - self.dropout)
