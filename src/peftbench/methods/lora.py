"""LoRA (Hu et al., 2022, arXiv 2106.09685): a low-rank update of each linear layer, or convolution."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from peftbench.backbones import Backbone
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, input_path_fits, updates


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates of linear layers, or of a backbone without any of its dense convolutions; the rest is frozen.

    `layers` are patterns over the layer names (`*` is all, `*qkv` the attention inputs); the update is scaled by
    alpha / rank. Convolutions have the form of the authors' code, with r k columns for a kernel of k x k; one of fewer
    channels than `rank` is left alone. (`method=petah` adapts linear layers and convolutions alike.)

    Source: Hu et al., 2022, arXiv 2106.09685; the form for convolutions is that of the authors' code.
    Equation: y = W x + (alpha / r) · B A x, A (r, I) Kaiming-uniform, B (O, r) zero.
    Place: beside every linear layer, or those that `layers` names.
    Cost: backward runs through the whole backbone; two thin products a layer in training. Merged into W at
        prediction, it costs nothing.
    Avoid when: memory for backward is what is short: it needs about what full fine-tuning keeps of activations, which
        side methods do not. On a pruned backbone merging fills zeros; `petah` keeps them.
    """

    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    peft_adapters: ClassVar[bool] = True
    merges: ClassVar[tuple[str, ...]] = ("unmerged", "dense")

    rank: Positive = 8
    alpha: float = 8.0
    dropout: Share = 0.0
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
        scale = self.alpha / self.rank
        for name, layer in self._chosen(self._layers(backbone)).items():
            if isinstance(layer, nn.Conv2d):
                form = Form(self.rank, scale, "read", kernel_rows=True)
            else:  # a layer whose weight the model reads instead of calling it (BEiT's qkv) has no input to add beside
                beside = name in backbone.facts.called and input_path_fits(layer)
                form = Form(self.rank, scale, "input" if beside else "read", dropout=self.dropout)
            LowRankUpdate.add(layer, form, name=name)

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for update in updates(backbone.net):
            update.merge()

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
        if isinstance(m, nn.Linear) and not isinstance(m, NonDynamicallyQuantizableLinear)
    }
