"""LoRA (Hu et al., 2022, arXiv 2106.09685): a low-rank update of each linear layer, or convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal, UserError
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


@cache
def _with_update(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """A convolution of this kind whose weight is W + s · BA, in the form of the paper's authors (their loralib).

    A is (r k, C k) and B (O k, r k), for O filters over C channels of k x k; BA has the numbers of W in W's order.
    """

    class LowRankConv(kind):  # type: ignore[misc, valid-type]
        @property
        def weight(self) -> Tensor:
            frozen = self._parameters["weight"]
            return frozen + self.scale * (self.lora_b @ self.lora_a).view(frozen.shape)

    return LowRankConv


def low_rank_conv(layer: nn.Conv2d, rank: int, scale: float) -> nn.Conv2d:
    """The same convolution (its very parameters, hooks and mode), with an update that starts at zero."""
    kind: Any = _with_update(type(layer))  # type: ignore[arg-type]
    new = kind.__new__(kind)
    new.__dict__.update(layer.__dict__)
    weight, (high, wide) = layer.weight, layer.kernel_size
    new.plain, new.scale = type(layer), scale
    new.lora_a = nn.Parameter(weight.new_empty(rank * high, layer.in_channels * wide))
    new.lora_b = nn.Parameter(weight.new_zeros(layer.out_channels * high, rank * high))
    nn.init.kaiming_uniform_(new.lora_a, a=math.sqrt(5))
    return new


def _merged_conv(layer: Any) -> nn.Conv2d:
    """A plain convolution of the tuned weight; the given one is of no use afterwards."""
    tuned = layer.weight
    new = layer.plain.__new__(layer.plain)
    new.__dict__.update({n: v for n, v in layer.__dict__.items() if n not in ("plain", "scale")})
    for name in ("lora_a", "lora_b"):
        del new._parameters[name]
    new._parameters["weight"].copy_(tuned)
    return new


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates of linear layers, or of a backbone without any of its dense convolutions; the rest is frozen.

    `layers` are patterns over the layer names (`*` is all, `*qkv` the attention inputs); the update is scaled by
    alpha / rank. Convolutions have the form of the authors' code, with r k columns for a kernel of k x k; one of fewer
    channels than `rank` is left alone. (`method=petah` adapts linear layers and convolutions alike.)
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
        every = self._layers(backbone)
        if not every:
            raise Refusal(
                f"method=lora: {backbone.facts.name} has no linear layers to adapt, nor convolutions with at least "
                f"method.rank={self.rank} channels; method=bitfit and method=full work on any backbone."
            )
        chosen = self._chosen(every)
        if not chosen:
            raise UserError(
                f"method.layers={list(self.layers)}: no layer of {backbone.facts.name} that LoRA adapts matches; "
                f"there are {', '.join(list(every)[:6])}, …"
            )
        if self.dropout and any(isinstance(layer, nn.Conv2d) for layer in chosen.values()):
            raise Refusal(
                f"method.dropout={self.dropout}: {backbone.facts.name} has convolutions only, whose update is one of "
                f"the weight, with no input of its own to drop; give method.dropout=0."
            )
        for name, layer in chosen.items():
            if isinstance(layer, nn.Conv2d):
                continue
            if self.rank > (most := min(layer.in_features, layer.out_features)):
                raise UserError(f"method.rank={self.rank}: layer {name} allows at most {most}.")

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        for name, layer in self._chosen(self._layers(backbone)).items():
            parent, _, child = name.rpartition(".")
            if isinstance(layer, nn.Conv2d):
                wrapped: nn.Module = low_rank_conv(layer, self.rank, self.alpha / self.rank)
            else:
                kind = LowRankLinear if name in backbone.facts.called else LowRankWeight
                wrapped = kind.around(layer, self.rank, self.alpha / self.rank, self.dropout)
            setattr(backbone.net.get_submodule(parent), child, wrapped)

    @torch.no_grad()
    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for name, layer in list(backbone.net.named_modules()):
            if isinstance(layer, LowRankLinear | nn.Conv2d) and hasattr(layer, "lora_a"):
                parent, _, child = name.rpartition(".")
                plain = layer.merged() if isinstance(layer, LowRankLinear) else _merged_conv(layer)
                setattr(backbone.net.get_submodule(parent), child, plain)

    def _layers(self, backbone: Backbone) -> dict[str, Any]:
        """The linear layers; of a backbone without any, its dense convolutions of at least `rank` channels."""
        return _linear_layers(backbone) or {
            n: m
            for n, m in backbone.net.named_modules()
            if isinstance(m, nn.Conv2d) and m.groups == 1 and self.rank <= min(m.in_channels, m.out_channels)
        }

    def _chosen(self, layers: dict[str, Any]) -> dict[str, Any]:
        return {n: m for n, m in layers.items() if any(fnmatchcase(n, p) for p in self.layers)}


def _linear_layers(backbone: Backbone) -> dict[str, nn.Linear]:
    """The linear layers that the features depend on, by name: a layer behind them (a classifier's rest) has no use."""
    return {
        n: m
        for n, m in backbone.net.named_modules()
        if isinstance(m, nn.Linear) and not isinstance(m, torch.nn.modules.linear.NonDynamicallyQuantizableLinear)
    }
