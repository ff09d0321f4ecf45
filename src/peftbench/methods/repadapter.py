"""RepAdapter (Luo et al., 2023, arXiv 2302.08106): a linear adapter before a linear layer, which merges into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.backbones.coded_weights import own_weight
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.branches import Gain, PartOf
from peftbench.methods.shared.folding import Folded, layer_class, refuse_taken_names
from peftbench.methods.shared.low_rank_update import input_path_fits

_PART = "branch"


@dataclass(frozen=True)
class RepAdapter(Method):
    """Linear adapters between a norm and the linear layer behind it, merged into that layer; the rest is frozen.

    Source: Luo et al. (arXiv 2302.08106). Our reading: a layer without a bias has an adapter without biases, since
    these would have no place in it; `layers` are patterns over the names of linear layers.

    Equation: W (x + A(x)) + b with A(x) = s (Wb drop(Wa x + ba) + bb), x (…, d), Wa (r, d), Wb (d, r) in `groups`
    blocks: outputs of one block read the r / groups numbers of theirs. Merged, W' = W (I + s Wb Wa) and
    b' = b + s W (Wb ba + bb).

    Place: before `qkv` of the attention and `fc1` of the MLP, in every block whose norm feeds these linear layers.

    Cost: the whole backward pass; nothing at prediction, where it is merged.

    Avoid when: the backbone is a ResNet, whose norms feed convolutions (refused), or its zeros are to stay: merged, a
    pruned weight is dense.
    """

    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    branched: ClassVar[bool] = True
    merges: ClassVar[tuple[str, ...]] = ("unmerged", "dense")

    rank: Positive = 8
    groups: Positive = 2
    scale: float = 1.0
    dropout: Share = 0.1
    layers: tuple[str, ...] = ("*qkv", "*fc1")

    def check(self, backbone: Backbone) -> None:
        if not self.scale:
            raise UserError("method.scale=0.0: nothing would be added; give another number, such as 1.")
        if self.rank % self.groups and self.rank == type(self).rank:
            divisor = next(n for n in range(min(self.groups, self.rank), 0, -1) if self.rank % n == 0)
            raise UserError(
                f"method.groups={self.groups}: expected a divisor of method.rank={self.rank}, such as {divisor}."
            )
        if self.rank % self.groups:
            raise UserError(f"method.rank={self.rank}: expected a multiple of method.groups={self.groups}.")
        chosen = self._chosen(backbone)
        name = backbone.facts.name
        if not chosen and self.layers == type(self).layers:
            raise Refusal(
                f"method=repadapter: {name} has no linear layer called qkv or fc1 behind a norm, into which an adapter "
                f"would merge; method=lora and method=adapter work."
            )
        if not chosen:
            raise UserError(
                f"method.layers={list(self.layers)}: no linear layer of {name} that is called matches; the default, "
                f"method.layers={list(type(self).layers)}, works."
            )
        for layer, module in chosen.items():
            if module.in_features % self.groups:
                raise UserError(f"method.groups={self.groups}: layer {layer} has {module.in_features} inputs.")

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        matching = self._matching(backbone)
        return {n: "its weight is read instead of called" for n in matching if n not in self._chosen(backbone)}

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        like = next(p for p in backbone.net.parameters() if p.is_floating_point())
        for name, layer in self._chosen(backbone).items():
            refuse_taken_names(layer, (_PART, "plain_class"), name)
            layer.add_module(_PART, GroupedBottleneck(self, layer, like))
            kind: Any = type(layer)
            layer.__class__ = layer_class(kind, "Preceded", (("forward", _preceded),))

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        """W A(x) of each layer, by which its output differs from W x + b."""
        return [PartOf(n, m, _in_two_parts) for n, m in backbone.net.named_modules() if _has_adapter(m)]

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for layer in list(backbone.net.modules()):
            if _has_adapter(layer):
                _merge(layer)

    def _matching(self, backbone: Backbone) -> dict[str, nn.Linear]:
        linear = {n: m for n, m in backbone.net.named_modules() if isinstance(m, nn.Linear)}
        return {n: m for n, m in linear.items() if any(fnmatchcase(n, p) for p in self.layers)}

    def _chosen(self, backbone: Backbone) -> dict[str, nn.Linear]:
        called = backbone.facts.called - backbone.facts.pools
        return {n: m for n, m in self._matching(backbone).items() if n in called and input_path_fits(m)}


class GroupedBottleneck(nn.Module):
    """The branch of a RepAdapter, A of its equation, for the inputs of a linear layer.

    Wa starts with Xavier's uniform values, all else at zero. Wb is (groups, d / groups, r / groups).

    Args:
        options: of the method.
        layer: that it stands before.
        like: a tensor of the type and device that it is made for: the layer's weight may be in codes.
    """

    def __init__(self, options: RepAdapter, layer: nn.Linear, like: Tensor) -> None:
        super().__init__()
        width, rank, groups = layer.in_features, options.rank, options.groups
        self.scale, self.dropout = options.scale, options.dropout
        self.down = nn.Parameter(like.new_empty(rank, width))
        self.up = nn.Parameter(like.new_zeros(groups, width // groups, rank // groups))
        biased = layer.bias is not None
        self.down_bias = nn.Parameter(like.new_zeros(rank)) if biased else None
        self.up_bias = nn.Parameter(like.new_zeros(width)) if biased else None
        nn.init.xavier_uniform_(self.down)

    def forward(self, x: Tensor) -> Tensor:
        """A(x), in the shape of x (…, d)."""
        return F.linear(self.narrow(x), *self.widening())

    def narrow(self, x: Tensor) -> Tensor:
        """drop(Wa x + ba), (…, r)."""
        narrow = F.linear(x, self.down, self.down_bias)
        return F.dropout(narrow, self.dropout, self.training) if self.dropout else narrow

    def widening(self) -> tuple[Tensor, Tensor | None]:
        """s Wb (d, r) and s bb (d,), None without biases."""
        return self.scale * self.dense_up(), None if self.up_bias is None else self.scale * self.up_bias

    def dense_up(self) -> Tensor:
        """Wb as a matrix (d, r), zero outside of its blocks: smaller products than one for each block."""
        return torch.block_diag(*self.up)


def _preceded(self: Any, x: Tensor) -> Tensor:
    y: Tensor = self.plain_class.forward(self, x + self.branch(x))
    return y


def _in_two_parts(self: Any, gain: Gain, x: Tensor) -> Tensor:
    """W x + b and the gain of W A(x). W times s Wb, and times s bb, is formed first, so that products stay thin."""
    weight, adapter = own_weight(self), self.branch
    up, bias = adapter.widening()
    rows = F.linear(up.T if bias is None else torch.cat([up.T, bias[None]]), weight)
    narrow, rank = adapter.narrow(x), up.shape[1]
    return F.linear(x, weight, self.bias) + gain(F.linear(narrow, rows[:rank].T, None if bias is None else rows[rank]))


def _has_adapter(layer: nn.Module) -> bool:
    return isinstance(layer._modules.get(_PART), GroupedBottleneck)


@torch.no_grad()
def _merge(layer: Any) -> Folded:
    """Folds the adapter before a layer into its weight and bias, computed in double precision."""
    branch = layer._modules[_PART]
    weight, up = layer.weight.double(), branch.scale * branch.dense_up().double()
    values = {"weight": weight + (weight @ up) @ branch.down.double()}
    if branch.up_bias is not None:
        shift = up @ branch.down_bias.double() + branch.scale * branch.up_bias.double()
        values["bias"] = layer.bias.double() + weight @ shift
    rounded = {name: value.to(layer.weight.dtype) for name, value in values.items()}
    return Folded(layer, rounded, (_PART,), layer.plain_class)
