"""FacT (Jie and Deng, AAAI 2023, arXiv 2212.03145): updates of all matrices from factors that the whole net shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone
from peftbench.backbones.coded_weights import own_weight
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import AboveZero, Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.branches import Gain, PartOf
from peftbench.methods.shared.folding import Folded, layer_class, refuse_taken_names
from peftbench.methods.shared.low_rank_update import input_path_fits

PART = "fact_part"
"""The name of a layer's own factor."""
SHARED = "fact"
"""The name of the factors that layers share, a module of the net."""
OWN = (PART, "fact_form")


@dataclass(frozen=True)
class FacT(Method):
    """Every d x d tile of a block's matrices is updated by s·V S U, with U and V of the whole net and S of the tile.

    Source: arXiv 2212.03145. Our reading: in `tk` the slices of an MLP's core are taken tile by tile; the authors' code
    cuts them in another order than it stacks them, which permutes them alike in every use, so that its weights are not
    ours. The scale s is 1; the authors choose it for each task from 0.01 to 100.

    Equation: ΔW_ji = s·V S_ji U for the tile in row j and column i of W, with U (r, d), V (d, r), S_ji (r, r). In `tt`
    S_ji is a parameter. In `tk` it is (Σ_c C[:, :, c] P[c, ji])ᵀ, with C (r, r, r) of the whole net and r numbers P of
    the tile. V starts at zero, so that the start is the backbone's. Dropout acts between S and V.

    Place: beside q, k, v and the projection of every block's attention (a tile each), and its fc1 and fc2 (four each).

    Cost: a whole backward pass, in which each layer's input is kept, as LoRA's is. It merges, and then costs nothing.

    Avoid when: the net is no plain ViT: its matrices are no tiles of one width, and it is refused.
    """

    foldable: ClassVar[bool] = True
    identity_start: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    branched: ClassVar[bool] = True
    merges: ClassVar[tuple[str, ...]] = ("unmerged", "dense")
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fact_tk": {"form": "tk"}}

    form: Literal["tt", "tk"] = "tt"
    rank: Positive = 16
    scale: AboveZero = 1.0
    dropout: Share = 0.1

    def check(self, backbone: Backbone) -> None:
        if why := _why_no_tiles(backbone):
            name = "fact" if self.form == "tt" else "fact_tk"
            raise Refusal(
                f"method={name}: needs a plain ViT, whose matrices are tiles of one width, and {backbone.facts.name} "
                f"{why}; method=lora works."
            )
        if not 1 <= self.rank <= (width := backbone.facts.taps[0].channels):
            raise UserError(f"method.rank={self.rank}: expected 1 to {width}, the width of {backbone.facts.name}.")

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        layers, width, net = _block_layers(backbone), backbone.facts.taps[0].channels, backbone.net
        freeze(backbone)
        refuse_taken_names(net, (SHARED,), "of the whole net")
        like = own_weight(next(iter(layers.values())))
        shared = Shared(self.rank, width, like, with_core=self.form == "tk")
        net.add_module(SHARED, shared)
        tiles = sum(_tiles(layer, width)[0] * _tiles(layer, width)[1] for layer in layers.values())
        for name, layer in layers.items():
            form = Form(shared, self.rank, *_tiles(layer, width), self.scale, self.dropout)
            _add(layer, form, tiles, name)

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        """ΔW x of each layer that has an update."""
        return [PartOf(n, m, _in_two_parts) for n, m in backbone.net.named_modules() if "fact_form" in m.__dict__]

    def merge(self, backbone: Backbone) -> None:
        if backbone.merging == "unmerged":
            return
        for layer in list(backbone.net.modules()):
            if isinstance(form := layer.__dict__.get("fact_form"), Form):
                with torch.no_grad():
                    weight = own_weight(layer) + form.delta(layer.get_parameter(PART))
                plain: Any = type(layer)
                Folded(layer, {"weight": weight}, OWN, plain.plain_class)
        backbone.net._modules.pop(SHARED, None)


class Shared(nn.Module):
    """U (r, d), V (d, r), zero, and in `tk` C (r, r, r) as `core`."""

    def __init__(self, rank: int, width: int, like: Tensor, with_core: bool) -> None:
        super().__init__()
        kind: Any = {"dtype": like.dtype, "device": like.device}
        self.u = nn.Parameter(torch.empty(rank, width, **kind))
        self.v = nn.Parameter(torch.zeros(width, rank, **kind))
        nn.init.kaiming_uniform_(self.u, a=math.sqrt(5))
        self.core: nn.Parameter | None = None
        if with_core:
            self.core = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank, **kind)))


@dataclass(frozen=True)
class Form:
    """How a layer's update is made: `rows` x `columns` tiles, of its own part and the shared factors.

    The part is S (rows r, columns r) itself, or where there is a core P (r, rows columns), tiles in the order of rows.
    """

    shared: Shared
    rank: int
    rows: int
    columns: int
    scale: float
    dropout: float

    def middle(self, part: Tensor) -> Tensor:
        """S of all tiles, (rows r, columns r)."""
        if self.shared.core is None:
            return part
        each = torch.einsum("pqc,ck->kqp", self.shared.core, part).view(self.rows, self.columns, self.rank, self.rank)
        return each.transpose(1, 2).reshape(self.rows * self.rank, self.columns * self.rank)

    def branch(self, x: Tensor, part: Tensor, training: bool) -> Tensor:
        """ΔW x, (B, …, rows d), for x (B, …, columns d)."""
        narrow = F.linear(x.unflatten(-1, (self.columns, -1)), self.shared.u).flatten(-2)
        narrow = F.dropout(F.linear(narrow, self.middle(part)), self.dropout, training)
        return self.scale * F.linear(narrow.unflatten(-1, (self.rows, -1)), self.shared.v).flatten(-2)

    def delta(self, part: Tensor) -> Tensor:
        """ΔW, (rows d, columns d)."""
        tiles = self.middle(part).view(self.rows, self.rank, self.columns, self.rank)
        whole = torch.einsum("ar,jrip,pb->jaib", self.shared.v, tiles, self.shared.u)
        return self.scale * whole.flatten(2).flatten(0, 1)


def _block_layers(backbone: Backbone) -> dict[str, nn.Linear]:
    """The linear layers of the tapped blocks, by name."""
    blocks = tuple(f"{tap.module}." for tap in backbone.facts.taps)
    named = backbone.net.named_modules()
    return {n: m for n, m in named if isinstance(m, nn.Linear) and n.startswith(blocks)}


def _tiles(layer: nn.Linear, width: int) -> tuple[int, int]:
    return layer.out_features // width, layer.in_features // width


def _why_no_tiles(backbone: Backbone) -> str:
    """What keeps the matrices of its blocks from being tiles of one width, or nothing."""
    facts = backbone.facts
    if any(tap.layout != "NLC" for tap in facts.taps):
        return "computes with maps"
    width = facts.taps[0].channels
    if other := next((tap for tap in facts.taps if tap.channels != width), None):
        return f"is {width} wide in {facts.taps[0].module} and {other.channels} in {other.module}"
    layers = _block_layers(backbone)
    for name, layer in layers.items():
        if layer.out_features % width or layer.in_features % width:
            return f"has {name} of {layer.out_features} x {layer.in_features}, no tiles of {width} x {width}"
        if name not in facts.called or not input_path_fits(layer):
            return f"reads the weight of {name} instead of calling it"
    return "" if layers else "has no linear layers in its blocks"


def _add(layer: Any, form: Form, tiles: int, name: str) -> None:
    """Gives the layer called `name` its own part of an update; `tiles` are those of the whole net."""
    refuse_taken_names(layer, (*OWN, "plain_class"), name)
    weight = own_weight(layer)
    shape = (form.rows * form.rank, form.columns * form.rank)
    if form.shared.core is not None:
        shape = (form.rank, form.rows * form.columns)
    part = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    if form.shared.core is None:
        nn.init.kaiming_uniform_(part, a=math.sqrt(5))
    else:  # Xavier's bound of P (r, tiles) of the whole net, of which this is a slice
        bound = math.sqrt(6 / (form.rank + tiles))
        nn.init.uniform_(part, -bound, bound)
    layer.fact_part = nn.Parameter(part)
    layer.__dict__["fact_form"] = form
    kind: Any = type(layer)
    layer.__class__ = layer_class(kind, "Factored", (("forward", _beside),))


def _beside(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, own_weight(self), self.bias) + self.fact_form.branch(x, self.fact_part, self.training)


def _in_two_parts(self: Any, gain: Gain, x: Tensor) -> Tensor:
    return F.linear(x, own_weight(self), self.bias) + gain(self.fact_form.branch(x, self.fact_part, self.training))
