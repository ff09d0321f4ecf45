"""SSF (Lian et al., NeurIPS 2022, arXiv 2210.08823): a scale and a shift of each channel behind every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from peftbench.backbones import Backbone
from peftbench.backbones.coded_weights import own_weight
from peftbench.backbones.layers import layers
from peftbench.backbones.norms import before_batch_norm, norms
from peftbench.common.errors import Refusal
from peftbench.methods.base import Method, Plan, freeze
from peftbench.methods.shared.folding import Folded, layer_class, refuse_taken_names

PARTS = ("ssf_scale", "ssf_shift")
SPREAD = 0.02
"""The standard deviation of a random start."""


@dataclass(frozen=True)
class SSF(Method):
    """Scales and shifts the channels behind every convolution, linear layer and norm; all else is frozen.

    Source: arXiv 2210.08823. Published for ViT, Swin and ConvNeXt. Our reading: the start `identity` (published is
    `random`: gamma ~ N(1, 0.02), beta ~ N(0, 0.02)), batch norms, layers without a bias, and ConvNeXt's last map, which
    is scaled behind the pooled norm instead of before pooling, so that it merges.

    Equation: y = γ ⊙ f(x) + β, with γ and β (C) for a layer f of C channels, along the axis of its channels: the second
    of a convolution's map (B, C, H, W), the last of what a linear layer gives (B, …, C).

    Place: behind the convolution of the patches, every norm, qkv, proj, fc1 and fc2 of a block, and the last norm; on
    hierarchical nets behind the convolutions and norms between the stages too, and behind the norm alone where a linear
    layer merges patches. Of a layer and the batch norm that takes its output, the norm alone has it. A layer without a
    bias has γ alone, since β could not be merged; so has a weight that the model reads instead of calling the layer.

    Cost: a whole backward pass, in which each adapted layer's output is kept; of a norm nothing more is kept. It merges
    into weights and biases, and is free at prediction. A third of β behind a fused qkv (the keys') has no effect: a
    softmax does not see a shift of all keys.

    Avoid when: the backbone has batch norms only. Then it is those norms' weights and biases in other words.
    """

    foldable: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True

    init: Literal["identity", "random"] = "identity"

    @property
    def identity_start(self) -> bool:  # type: ignore[override]
        return self.init == "identity"

    def check(self, backbone: Backbone) -> None:
        scaled, standardised = _scaled_modules(backbone), self.skipped(backbone)
        if any(name in scaled for name, _ in norms(backbone.net)) or (scaled and not standardised):
            return
        why = next((f", and {name} takes no scale: {why}" for name, why in standardised.items()), " to scale")
        raise Refusal(f"method=ssf: {backbone.facts.name} has no norms{why}; method=bitfit and method=linear work.")

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        return {x.name: x.fixed for x in layers(backbone) if "standardised" in x.fixed}

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        scaled = _scaled_modules(backbone)
        freeze(backbone)
        for name, called in scaled.items():
            _add(backbone.net.get_submodule(name), called, self.init, name)

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for layer in list(backbone.net.modules()):
            if "ssf_scale" in layer._parameters:
                _merge(layer)


def _scaled_modules(backbone: Backbone) -> dict[str, bool]:
    """What gets a scale: its name in the net -> whether its output is scaled; else what is read of it is.

    A norm's weight and bias are read, as they are few. So is the weight of a layer that is not called.
    """
    called, covered = backbone.facts.called, before_batch_norm(backbone)
    merging = {x.name for x in layers(backbone) if x.kind == "downsample" and isinstance(x.module, nn.Linear)}
    behind = {
        x.name: x.name in called
        for x in layers(backbone)
        if not x.fixed and x.name not in covered and not (x.name in merging and x.module.bias is None)
    }
    read = {
        name: False
        for name, norm in norms(backbone.net)
        if name in called and isinstance(norm._parameters.get("weight"), nn.Parameter)
    }
    return behind | read


def _add(layer: Any, called: bool, init: str, name: str) -> None:
    """Gives the layer called `name` a scale, and a shift where it has a bias to merge it into."""
    refuse_taken_names(layer, (*PARTS, "plain_class"), name)
    weight = own_weight(layer)
    scale = torch.ones(len(weight), dtype=weight.dtype, device=weight.device)
    shift = torch.zeros_like(scale)
    if init == "random":
        nn.init.normal_(scale, 1.0, SPREAD)
        nn.init.normal_(shift, 0.0, SPREAD)
    layer.ssf_scale = nn.Parameter(scale)
    if layer._parameters.get("bias") is not None:  # an RMS norm has none
        layer.ssf_shift = nn.Parameter(shift)
    members = (("forward", _scaled_output),) if called else _READ[: len(_parameters(layer))]
    kind: Any = type(layer)
    layer.__class__ = layer_class(kind, "Scaled", members)


def _parameters(layer: nn.Module) -> tuple[str, ...]:
    """Those of the layer's own that the scale is merged into."""
    return ("weight",) if layer._parameters.get("bias") is None else ("weight", "bias")


def _scaled_output(self: Any, x: Tensor) -> Tensor:
    """γ ⊙ f(x) + β, in the output's type and shape."""
    y: Tensor = self.plain_class.forward(self, x)
    shape = [1] * y.ndim
    shape[1 if isinstance(self, nn.Conv2d) else -1] = -1
    scale, shift = (self._parameters.get(part) for part in PARTS)
    scale = scale.to(y.dtype).view(shape)
    return y * scale if shift is None else torch.addcmul(shift.to(y.dtype).view(shape), y, scale)


def _scaled(layer: nn.Module, name: str) -> Tensor:
    """What the layer's weight or bias becomes, in its shape."""
    scale, shift = (layer._parameters.get(part) for part in PARTS)
    value = own_weight(layer) if name == "weight" else layer._parameters[name]
    assert value is not None
    assert scale is not None
    value = scale.view(-1, *[1] * (value.ndim - 1)) * value
    return value if name == "weight" or shift is None else value + shift


_READ = tuple((name, property(partial(_scaled, name=name))) for name in ("weight", "bias"))


def _merge(layer: Any) -> None:
    """Makes γ ⊙ W the layer's weight and γ ⊙ b + β its bias, and takes both away."""
    Folded(layer, {n: _scaled(layer, n) for n in _parameters(layer)}, PARTS, layer.plain_class)
