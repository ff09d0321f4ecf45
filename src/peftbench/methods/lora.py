"""LoRA (Hu et al., 2022, arXiv 2106.09685): a low-rank update beside each linear layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.errors import Refusal, UserError
from peftbench.methods.base import Method, Plan, freeze


class LowRankLinear(nn.Linear):
    """y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ, with A (r, d_in), B (d_out, r), s = alpha / r (section 4.1 of the paper).

    A starts Kaiming-uniform, B at zero, so that the layer starts as it was. W keeps its name in the state dict.
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scale: float
    drop: float

    @classmethod
    def around(cls, layer: nn.Linear, rank: int, scale: float, dropout: float) -> LowRankLinear:
        """The same layer (its very parameters, hooks and mode), with an update of the given rank."""
        new = cls.__new__(cls)
        new.__dict__.update(layer.__dict__)
        weight = layer.weight
        new.scale, new.drop = scale, dropout
        new.lora_a = nn.Parameter(weight.new_empty(rank, layer.in_features))
        new.lora_b = nn.Parameter(weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(new.lora_a, a=math.sqrt(5))
        return new

    def merged(self) -> nn.Linear:
        """A plain layer of the tuned weight; this one is of no use afterwards."""
        new = nn.Linear.__new__(nn.Linear)
        new.__dict__.update(self.__dict__)
        low, high = (self._parameters.pop(n) for n in ("lora_a", "lora_b"))
        frozen = self._parameters["weight"]
        assert frozen is not None
        assert low is not None
        assert high is not None
        frozen.add_(self.scale * (high @ low))
        return new

    def forward(self, x: Tensor) -> Tensor:
        plain = F.linear(x, self.weight, self.bias)
        x = F.dropout(x, self.drop, self.training)
        return plain + F.linear(F.linear(x, self.lora_a), self.scale * self.lora_b)


class LowRankWeight(LowRankLinear):
    """The same for a layer whose weight the model reads instead of calling it (BEiT's qkv): it reads W + s·BA."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        frozen = self._parameters["weight"]
        assert frozen is not None
        return frozen + self.scale * (self.lora_b @ self.lora_a)


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates of linear layers; the rest of the backbone is frozen.

    `layers` are patterns over the layer names (`*` is all, `*qkv` the attention inputs); the update is scaled by
    alpha / rank.
    """

    merges: ClassVar[tuple[str, ...]] = ("unmerged", "dense")

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    layers: tuple[str, ...] = ("*",)

    def check(self, backbone: Backbone) -> None:
        if self.rank < 1:
            raise UserError(f"method.rank={self.rank}: expected at least 1.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"method.dropout={self.dropout}: expected at least 0 and below 1.")
        every = _linear_layers(backbone)
        if not every:
            raise Refusal(
                f"method=lora: {backbone.facts.name} has no linear layers to adapt; method=petah adapts "
                f"convolutions, method=bitfit and method=full work on any backbone."
            )
        chosen = self._chosen(every)
        if not chosen:
            raise UserError(
                f"method.layers={list(self.layers)}: no linear layer of {backbone.facts.name} matches; "
                f"there are {', '.join(list(every)[:6])}, …"
            )
        for name, layer in chosen.items():
            if self.rank > (most := min(layer.in_features, layer.out_features)):
                raise UserError(f"method.rank={self.rank}: layer {name} allows at most {most}.")

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        for name, layer in self._chosen(_linear_layers(backbone)).items():
            parent, _, child = name.rpartition(".")
            kind = LowRankLinear if name in backbone.facts.called else LowRankWeight
            wrapped = kind.around(layer, self.rank, self.alpha / self.rank, self.dropout)
            setattr(backbone.net.get_submodule(parent), child, wrapped)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for name, layer in list(backbone.net.named_modules()):
            if isinstance(layer, LowRankLinear):
                parent, _, child = name.rpartition(".")
                setattr(backbone.net.get_submodule(parent), child, layer.merged())

    def _chosen(self, layers: dict[str, nn.Linear]) -> dict[str, nn.Linear]:
        return {n: m for n, m in layers.items() if any(fnmatchcase(n, p) for p in self.layers)}


def _linear_layers(backbone: Backbone) -> dict[str, nn.Linear]:
    """The linear layers that the features depend on, by name: a layer behind them (a classifier's rest) has no use."""
    return {
        n: m
        for n, m in backbone.net.named_modules()
        if isinstance(m, nn.Linear) and not isinstance(m, torch.nn.modules.linear.NonDynamicallyQuantizableLinear)
    }
