"""PETAH: low-rank updates of convolution and attention alike, over a pruned backbone (arXiv 2410.17661).

Of the paper only the abstract and the introduction were readable to us: one shared hybrid backbone for many tasks,
adapted and pruned. Ranks, layers, the form of a convolution's update and the way of pruning are our reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from torch import nn

from peftbench.backbones import Backbone
from peftbench.backbones.layers import Layer, layers
from peftbench.backbones.norms import norms
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import AboveZeroOrNull, Positive
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.branches import update_branches
from peftbench.methods.shared.folding import refuse_taken_names
from peftbench.methods.shared.low_rank_update import Form, LowRankUpdate, input_path_fits, updates, weight_path_fits

KINDS = ("attn", "mlp", "conv1x1", "convkxk", "downsample", "stem", "depthwise")


@dataclass(frozen=True)
class PETAH(Method):
    """Low-rank updates of linear and convolution layers: W + s·BA with W flattened to (O, I/g·k²).

    s is alpha / rank (alpha: the rank by default, so s = 1), with `rslora` alpha / sqrt(rank). `targets` are kinds of
    layers, `ranks` ranks of single ones ("*qkv=4", the last match counts). A rank is clamped to min(O, I/g·k²), and a
    layer whose update would be no smaller than its weight is left alone. `form: conv` computes dense convolutions'
    updates as two convolutions. `norms: affine` trains scales and shifts, `affine+stats` lets batch-norm statistics
    move too; `bias` trains those of adapted, or all, layers.

    Source: arXiv 2410.17661. Our reading: all but what its abstract and introduction say, which alone we could read.
    Equation: W' = M ∘ (W + s · B A), W of a linear layer or a flattened convolution, M the mask of a pruned backbone.
    Place: every linear layer and convolution of the kinds in `targets`.
    Cost: backward runs through the whole backbone; merged at prediction it costs nothing, and the zeros stay.
    Avoid when: the backbone has weight-standardised convolutions (refused), or has linear layers only and is not
        pruned: it is LoRA there.
    """

    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    branched: ClassVar[bool] = True
    merges: ClassVar[tuple[str, ...]] = ("unmerged", "masked", "dense")

    rank: Positive = 8
    alpha: AboveZeroOrNull = None
    rslora: bool = False
    form: Literal["weight", "conv"] = "weight"
    targets: tuple[str, ...] = ("attn", "mlp", "conv1x1", "convkxk", "downsample", "stem", "depthwise")
    ranks: tuple[str, ...] = ()
    norms: Literal["frozen", "affine", "affine+stats"] = "frozen"
    bias: Literal["none", "adapted", "all"] = "none"

    def check(self, backbone: Backbone) -> None:
        if self.alpha is not None and self.alpha <= 0:
            raise UserError(f"method.alpha={self.alpha}: expected a number above 0, or null.")
        if wrong := [t for t in self.targets if t not in KINDS]:
            raise UserError(f"method.targets: '{wrong[0]}' is no kind of layer; there are {', '.join(KINDS)}.")
        every = layers(backbone)
        self._check_ranks(backbone, every)
        wanted = [x for x in every if x.kind in self.targets]
        for layer in wanted:
            if "standardised" in layer.fixed:
                usable = sorted({x.kind for x in every} - {x.kind for x in every if "standardised" in x.fixed})
                instead = f"give method.targets=[{','.join(usable)}]" if usable else "method=bitfit and full work"
                raise Refusal(
                    f"method=petah: {backbone.facts.name} cannot be adapted in {layer.name}, because "
                    f"{layer.fixed}; {instead}."
                )
        if not self._chosen(backbone):
            raise self._nothing_left(backbone, every, wanted)

    def _nothing_left(self, backbone: Backbone, every: list[Layer], wanted: list[Layer]) -> UserError:
        allowed = {x.name: (x.rows * x.columns - 1) // (x.rows + x.columns) for x in wanted if not self._unsuited(x)}
        most = max(allowed, key=lambda name: allowed[name], default="")
        if most and allowed[most]:
            return UserError(
                f"method.rank={self.rank}: leaves no layer of {backbone.facts.name} to adapt, since an update would "
                f"be no smaller than the weight; layer {most} allows at most {allowed[most]}, no other more."
            )
        kinds = ", ".join(sorted({x.kind for x in every}))
        skipped = (f"{name}: {why}" for name, why in self.skipped(backbone).items())
        why = next(skipped, f"it has layers of the kinds {kinds}")
        return UserError(
            f"method.targets={list(self.targets)}: leaves no layer of {backbone.facts.name} to adapt ({why})."
        )

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        masked = backbone.merging == "masked"
        for layer, rank in self._chosen(backbone):
            mask = backbone.masks.get(f"{layer.name}.weight") if masked else None
            path = self._path(layer.module, mask is not None)
            LowRankUpdate.add(layer.module, Form(rank, self._scale(rank), path, fused=True), mask, layer.name)
            if self.bias == "adapted" and layer.module.bias is not None:
                layer.module.bias.requires_grad = True
        if self.bias == "all":
            for layer in layers(backbone):
                if layer.module.bias is not None:
                    layer.module.bias.requires_grad = True
        if self.norms != "frozen":
            for name, norm in norms(backbone.net):
                refuse_taken_names(norm, ("fixed_statistics",), name)
                for parameter in norm.parameters(recurse=False):
                    parameter.requires_grad = True
                norm.fixed_statistics = self.norms == "affine"  # type: ignore[assignment]

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        return update_branches(backbone)

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for update in updates(backbone.net):
            update.merge()

    def skipped(self, backbone: Backbone) -> Mapping[str, str]:
        reasons = {}
        for layer in layers(backbone):
            if layer.kind in self.targets and (why := self._unfit(layer)):
                reasons[layer.name] = why
        return reasons

    def _unfit(self, layer: Layer) -> str:
        """Why a layer of a wanted kind is left alone, or nothing."""
        rank = self._rank(layer)
        update = rank * (layer.rows + layer.columns)
        if not layer.fixed and update >= layer.rows * layer.columns:
            return f"its update of rank {rank} has {update:,} parameters, its weight {layer.rows * layer.columns:,}"
        return self._unsuited(layer)

    def _unsuited(self, layer: Layer) -> str:
        """Why it is left alone whatever the rank, or nothing."""
        if layer.fixed:
            return layer.fixed
        if self.form == "conv" and isinstance(layer.module, nn.Conv2d):
            if layer.module.groups > 1:
                return "form=conv has no update of grouped convolutions, form=weight has"
            if type(layer.module).forward is not nn.Conv2d.forward:
                return "form=conv does not know its padding, form=weight leaves it to the layer"
        return ""

    def _path(self, layer: nn.Module, masked: bool) -> Literal["input", "weight", "read"]:
        if masked:  # the gradient of a masked update is not one of low rank
            return "read"
        if self.form == "conv" and isinstance(layer, nn.Conv2d) and input_path_fits(layer):
            return "input"
        return "weight" if weight_path_fits(layer) else "read"

    def _chosen(self, backbone: Backbone) -> list[tuple[Layer, int]]:
        every = [x for x in layers(backbone) if x.kind in self.targets]
        return [(x, self._rank(x)) for x in every if not self._unfit(x)]

    def _rank(self, layer: Layer) -> int:
        rank = self.rank
        for pattern, given in self._patterns():
            if fnmatchcase(layer.name, pattern):
                rank = given
        return min(rank, layer.rows, layer.columns)

    def _scale(self, rank: int) -> float:
        alpha = rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def _patterns(self) -> list[tuple[str, int]]:
        return [(p, int(r)) for p, _, r in (entry.rpartition("=") for entry in self.ranks)]

    def _check_ranks(self, backbone: Backbone, every: list[Layer]) -> None:
        for entry in self.ranks:
            pattern, _, rank = entry.rpartition("=")
            if not pattern or not rank.isdigit() or int(rank) < 1:
                raise UserError(f"method.ranks: '{entry}': expected pattern=rank, such as *qkv=4.")
            matched = [x for x in every if fnmatchcase(x.name, pattern)]
            if not matched:
                raise UserError(f"method.ranks: '{entry}': no layer of {backbone.facts.name} matches {pattern}.")
            for layer in matched:
                if int(rank) > (most := min(layer.rows, layer.columns)):
                    raise UserError(f"method.ranks: '{entry}': layer {layer.name} allows at most {most}.")
