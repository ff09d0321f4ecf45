"""LoRA (Hu et al., 2022, arXiv 2106.09685): a low-rank update of each linear layer, or convolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from peftbench.backbones import Backbone
from peftbench.backbones.coded_weights import own_weight
from peftbench.backbones.layers import layers as layers_of
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import AboveZero, Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.branches import update_branches
from peftbench.methods.shared.low_rank_update import (
    Form,
    LowRankUpdate,
    inner_rank,
    input_path_fits,
    matrix_shape,
    updates,
)
from peftbench.methods.shared.origins import origin_of
from peftbench.methods.shared.weight_path import Origin


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank updates of linear layers, or of a backbone without any of its dense convolutions; the rest is frozen.

    `layers` are patterns over the layer names (`*` is all, `*qkv` the attention inputs); the update is scaled by
    alpha / rank. Convolutions have the form of the authors' code, with r k columns for a kernel of k x k. A layer of
    fewer channels than `rank` is left alone. (`method=petah` adapts linear layers and convolutions alike.)

    Published forms are options: `rslora` scales by alpha / sqrt(rank); `dora` trains the length of each row of the
    updated weight besides; `init` has the factors begin as a part of the weight, of which their change alone counts;
    `lr_ratio` is the learning rate of B, and of DoRA's lengths, over that of A.

    Source: LoRA, arXiv 2106.09685; rsLoRA, 2312.03732; DoRA, 2402.09353; PiSSA, 2404.02948; OLoRA, 2406.01775; LoRA+,
    2402.12354. That PiSSA's and OLoRA's residual W - s B0 A0 is never written into the backbone, but W + s (BA - B0 A0)
    computed with, is our form of the same; that DoRA's lengths have B's rate is as in HF PEFT.

    Equation: W' = W + s B A with W (O, I), A (r, I), B (O, r), s = alpha / r. DoRA: W'_o = m_o V_o / |V_o| for each row
    o of V = W + s B A, with m (O,) = |W_o| at the start and |V_o| a constant in backward.

    Place: inside each linear layer that `layers` names: qkv, proj, fc1 and fc2 of a transformer's block.

    Cost: backward runs through the whole backbone; the update merges, so that prediction costs nothing more. DoRA,
    PiSSA and OLoRA form the updated weight in each step; DoRA keeps the outputs of its layers for backward.

    Avoid when: memory is short, since activations of the whole backbone are kept (a side method keeps none); DoRA with
    dropout, which computes each layer twice.
    """

    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    peft_adapters: ClassVar[bool] = True
    branched: ClassVar[bool] = True
    merges: ClassVar[tuple[str, ...]] = ("unmerged", "dense")
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rslora": {"rslora": True},
        "dora": {"dora": True},
        "pissa": {"init": "pissa"},
        "olora": {"init": "olora"},
        "lora_plus": {"lr_ratio": 16.0},
    }

    rank: Positive = 8
    alpha: float = 8.0
    dropout: Share = 0.0
    layers: tuple[str, ...] = ("*",)
    rslora: bool = False
    dora: bool = False
    init: Literal["zero", "pissa", "olora"] = "zero"
    lr_ratio: AboveZero = 1.0

    @property
    def plans(self) -> bool:  # type: ignore[override]
        """What factors begin as is kept, since another machine would compute other signs."""
        return self.init != "zero"

    @property
    def scale(self) -> float:
        """s, by which BA is multiplied."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def check(self, backbone: Backbone) -> None:
        every = self._layers(backbone)
        if not every:
            raise Refusal(
                f"method=lora: {backbone.facts.name} has no linear layers to adapt, nor convolutions with at least "
                f"method.rank={self.rank} channels; method=bitfit and method=full work on any backbone."
            )
        matching, chosen = self._matching(every), self._chosen(every)
        if not matching:
            raise UserError(
                f"method.layers={list(self.layers)}: no layer of {backbone.facts.name} that LoRA adapts matches; "
                f"there are {', '.join(list(every)[:6])}, …"
            )
        if not chosen:
            name = max(matching, key=lambda name: _most_rank(matching[name]))
            raise UserError(f"method.rank={self.rank}: layer {name} allows at most {_most_rank(matching[name])}.")
        if self.dropout and any(isinstance(layer, nn.Conv2d) for layer in chosen.values()):
            raise Refusal(
                f"method.dropout={self.dropout}: {backbone.facts.name} has convolutions only, whose update is one of "
                f"the weight, with no input of its own to drop; give method.dropout=0."
            )
        self._check_form(backbone, chosen)

    def _check_form(self, backbone: Backbone, chosen: Mapping[str, Any]) -> None:
        """Raises Refusal where a form does not go with this backbone, UserError where it has no scale."""
        facts = backbone.facts
        if self.init != "zero":
            if self.alpha <= 0:
                raise UserError(f"method.alpha={self.alpha}: expected a number above 0 with method.init={self.init}.")
            if backbone.masks:
                raise Refusal(
                    f"method.init={self.init}: {facts.name} is pruned to zeros, and the rest of a weight beside the "
                    f"part that trains would have none; give method.init=zero, or pruning=none."
                )
        if not self.dora and self.init == "zero":
            return
        key = "method.dora=true" if self.dora else f"method.init={self.init}"
        standardised = {x.name: x.fixed for x in layers_of(backbone) if "standardised" in x.fixed}
        if name := next((n for n in chosen if n in standardised), None):
            raise Refusal(
                f"{key}: {facts.name} cannot be adapted so in {name}, because {standardised[name]}; method=bitfit and "
                f"method=full work."
            )
        read = [n for n, m in chosen.items() if isinstance(m, nn.Linear) and n not in facts.called]
        if self.dora and read:
            others = sorted({f"*{_end(n)}" for n in chosen} - {f"*{_end(n)}" for n in read})
            instead = f"method.layers=[{','.join(others)}] leaves it out, and " if others else ""
            raise Refusal(
                f"method.dora=true: {facts.name} reads the weight of {read[0]} instead of calling the layer, and DoRA "
                f"scales what a call gives; {instead}method=lora adapts it."
            )

    def prepare(self, model: nn.Module, batches: Iterable[Any]) -> Plan:
        """What the factors begin as, A0 and B0 of each layer; the data are not looked at."""
        if self.init == "zero":
            return Plan()
        backbone: Any = model.backbone
        tensors: dict[str, Tensor] = {}
        for name, layer in self._chosen(self._layers(backbone)).items():
            origin = self._origin(layer)
            tensors |= {f"{name}.lora_{x}0": t.cpu() for x, t in zip("ab", origin, strict=True)}
        return Plan(tensors, {"init": self.init})

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        for name, layer in self._chosen(self._layers(backbone)).items():
            origin: Origin | None = None
            if f"{name}.lora_a0" in plan.tensors:
                origin = plan.tensors[f"{name}.lora_a0"], plan.tensors[f"{name}.lora_b0"]
            elif self.init != "zero":
                origin = self._origin(layer)
            LowRankUpdate.add(layer, self._form(layer, name in backbone.facts.called), name=name, origin=origin)

    def rates(self, names: Sequence[str]) -> Mapping[str, float]:
        if self.lr_ratio == 1:
            return {}
        return {n: self.lr_ratio for n in names if n.endswith((".lora_b", ".lora_magnitude"))}

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        return update_branches(backbone)

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for update in updates(backbone.net):
            update.merge()

    def _form(self, layer: nn.Module, called: bool) -> Form:
        if isinstance(layer, nn.Conv2d):
            return Form(self.rank, self.scale, "read", kernel_rows=True, magnitude=self.dora)
        if not (called and input_path_fits(layer)):
            # A layer whose weight the model reads instead of calling it (BEiT's qkv) has no input to add beside.
            return Form(self.rank, self.scale, "read", dropout=self.dropout, magnitude=self.dora)
        if not (self.dora or self.init != "zero") or self.dropout:
            return Form(self.rank, self.scale, "input", dropout=self.dropout, magnitude=self.dora)
        return Form(self.rank, self.scale, "weight", fused=True, magnitude=self.dora)

    def _origin(self, layer: Any) -> Origin:
        assert self.init != "zero"
        by_kernel = isinstance(layer, nn.Conv2d)
        matrix = own_weight(layer).reshape(matrix_shape(layer, by_kernel))
        return origin_of(matrix, inner_rank(layer, self.rank, by_kernel), self.scale, self.init)

    def _layers(self, backbone: Backbone) -> dict[str, Any]:
        """The linear layers; of a backbone without any, its dense convolutions of at least `rank` channels."""
        return _linear_layers(backbone) or {
            n: m
            for n, m in backbone.net.named_modules()
            if isinstance(m, nn.Conv2d) and m.groups == 1 and self.rank <= min(m.in_channels, m.out_channels)
        }

    def _matching(self, layers: dict[str, Any]) -> dict[str, Any]:
        """Those that `layers` names."""
        return {n: m for n, m in layers.items() if any(fnmatchcase(n, p) for p in self.layers)}

    def _chosen(self, layers: dict[str, Any]) -> dict[str, Any]:
        """Those that are adapted: of the ones that `layers` names all that have the rank."""
        return {n: m for n, m in self._matching(layers).items() if self.rank <= _most_rank(m)}

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        matching = self._matching(self._layers(backbone))
        return {n: f"it allows at most rank {most}" for n, m in matching.items() if (most := _most_rank(m)) < self.rank}


def _most_rank(layer: Any) -> int:
    """The largest rank that its update can have."""
    if isinstance(layer, nn.Conv2d):
        return min(layer.in_channels, layer.out_channels)
    return min(layer.in_features, layer.out_features)


def _end(name: str) -> str:
    """The last two words of a layer's name, which tell its kind: attn.qkv."""
    return ".".join(name.split(".")[-2:])


def _linear_layers(backbone: Backbone) -> dict[str, nn.Linear]:
    """The linear layers that the features depend on, by name: a layer behind them (a classifier's rest) has no use."""
    return {
        n: m
        for n, m in backbone.net.named_modules()
        if isinstance(m, nn.Linear) and not isinstance(m, NonDynamicallyQuantizableLinear)
    }
