"""Adapters: bottlenecks on the residual stream, as AdaptFormer's (Chen et al., 2022, arXiv 2205.13535) and others'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones import Backbone, Block
from peftbench.common.errors import Refusal, UserError
from peftbench.config.bounds import Positive, Share
from peftbench.methods.base import Branch, Method, Plan, freeze
from peftbench.methods.shared.block_branches import (
    Read,
    add_behind,
    add_to_middle,
    add_to_output,
    branches_on_blocks,
    refuse_containers,
)
from peftbench.methods.shared.low_rank_update import drop_path

_NORMS = ("norm1", "norm2")
_DROPS = ("drop_path1", "drop_path2")


@dataclass(frozen=True)
class Adapter(Method):
    """Bottlenecks that are added to the residual stream of every block; the rest is frozen.

    Source: AdaptFormer (arXiv 2205.13535), and by `position`, `act`, `scaling`, `norm` and `init` Adapter+
    (2406.06820), Houlsby et al. (1902.00751) and Pfeiffer et al. (2005.00247), each a name of its own: `adaptformer`,
    `adapter_plus`, `houlsby`, `pfeiffer`. A block without an inner residual (of a CNN) has the adapter behind it: our
    reading, as is that Pfeiffer's norm trains.

    Equation: A(v) = s · (Wu drop(act(Wd v + bd)) + bu), v (…, d), Wd (r, d), Wu (d, r), for every token or position.
    s is `scale`, or learned from there: one number, or one per channel. `norm=ln` puts a layer norm before Wd.

    Place: of a block m = x + attn(norm1 x), y = m + mlp(norm2 m): `parallel` is y + A(m), `post` y + A(y), `pre`
    m + A(m) in the place of m, `intermediate` f + A(f) for the MLP's branch f, `houlsby` the same for both branches.

    Cost: the whole backward pass; kept beside the weights at prediction, 2 d r multiply-adds per token and adapter.

    Avoid when: prediction may cost nothing more, since it does not merge (`repadapter` and `lora` do).
    """

    keeps_weights: ClassVar[bool] = True
    branched: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "adaptformer": {"position": "parallel"},
        "adapter_plus": {"position": "post", "scaling": "channel"},
        "houlsby": {"position": "houlsby"},
        "pfeiffer": {"position": "post"},
    }

    rank: Positive = 8
    position: Literal["parallel", "post", "pre", "intermediate", "houlsby"] = "parallel"
    act: Literal["relu", "gelu"] = "relu"
    dropout: Share = 0.1
    drop_path: Share = 0.0
    scale: float = 0.1
    scaling: Literal["fixed", "learned", "channel"] = "fixed"
    norm: Literal["none", "ln"] = "none"
    init: Literal["kaiming", "trunc_normal"] = "kaiming"
    norms: Literal["frozen", "affine"] = "frozen"

    @property
    def identity_start(self) -> bool:  # type: ignore[override]
        return self.init == "kaiming"

    def check(self, backbone: Backbone) -> None:
        facts = backbone.facts
        if not self.scale and self.scaling == "fixed":
            raise UserError("method.scale=0.0: nothing would be added; give another number, such as 0.1.")
        if not facts.blocks:
            raise Refusal(
                f"method=adapter: {facts.name} has no blocks in a row to add to; method=lora and method=linear work."
            )
        refuse_containers("adapter", backbone)
        drops = {"pre": (), "intermediate": _DROPS[1:], "houlsby": _DROPS}
        for block in facts.blocks:
            whole = block.has_middle and set(drops.get(self.position, ())) <= set(block.inner)
            if not whole and (self.position in drops or self.norms == "affine"):
                if self.position not in drops:
                    raise Refusal(
                        f"method.norms=affine: trains the norms before an attention and an MLP, and {block.module} of "
                        f"{facts.name} has none such; method.norms=frozen works."
                    )
                raise Refusal(
                    f"method.position={self.position}: {block.module} of {facts.name} is no block of an attention and "
                    f"an MLP with a norm before each and a drop-path behind; method=adapter, whose position is "
                    f"parallel, works."
                )

    def adapt(self, backbone: Backbone, plan: Plan) -> None:
        freeze(backbone)
        net = backbone.net
        like = next(p for p in net.parameters() if p.is_floating_point())
        for block in backbone.facts.blocks:
            if self.norms == "affine":
                for norm in _NORMS:
                    net.get_submodule(f"{block.module}.{norm}").requires_grad_(True)
            if self.position in ("intermediate", "houlsby"):
                for drop in _DROPS[0 if self.position == "houlsby" else 1 :]:
                    name = f"{block.module}.{drop}"
                    add_to_output(net.get_submodule(name), Bottleneck(self, block, like), name)
            elif self.position == "pre":
                add_to_middle(net, block, Bottleneck(self, block, like), "middle")
            else:
                read: Read = "middle" if self.position == "parallel" and block.has_middle else "output"
                add_behind(net, block, Bottleneck(self, block, like), read)

    def branches(self, backbone: Backbone) -> Sequence[Branch]:
        return branches_on_blocks(backbone)


class Bottleneck(nn.Module):
    """The branch of an adapter, A of its equation, over tokens or maps of a block's width.

    Wd starts Kaiming-uniform and Wu at zero; or both from a normal of 0.01, cut at 0.02. Biases start at zero.

    Args:
        options: of the method.
        block: whose layout and width it is for.
        like: a tensor of the type and device that it is made for.
    """

    def __init__(self, options: Adapter, block: Block, like: Tensor) -> None:
        super().__init__()
        self.act, self.dropout, self.drop_path = options.act, options.dropout, options.drop_path
        self.fixed_scale = options.scale
        self.channels_first = block.layout == "NCHW"
        width, rank = block.channels, options.rank
        self.norm = nn.LayerNorm(width, device=like.device, dtype=like.dtype) if options.norm == "ln" else None
        self.down = nn.Parameter(like.new_empty(rank, width))
        self.down_bias = nn.Parameter(like.new_zeros(rank))
        self.up = nn.Parameter(like.new_zeros(width, rank))
        self.up_bias = nn.Parameter(like.new_zeros(width))
        sizes = {"fixed": 0, "learned": 1, "channel": width}
        learned = sizes[options.scaling]
        self.scale = nn.Parameter(like.new_full((learned,), options.scale)) if learned else None
        if options.init == "kaiming":
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        else:
            for matrix in (self.down, self.up):
                nn.init.trunc_normal_(matrix, std=0.01, a=-0.02, b=0.02)

    def forward(self, v: Tensor) -> Tensor:
        """A(v), in the shape of v: (B, …, d), or (B, d, H, W)."""
        if self.channels_first:
            v = v.movedim(1, 3)  # no axis counted from the end: the exporter that traces writes those as they are
        if self.norm is not None:
            v = self.norm(v)
        narrow = F.linear(v, self.down, self.down_bias)
        narrow = F.relu(narrow) if self.act == "relu" else F.gelu(narrow)
        if self.dropout:
            narrow = F.dropout(narrow, self.dropout, self.training)
        up, up_bias = self._scaled()
        added = drop_path(F.linear(narrow, up, up_bias), self.drop_path, self.training)
        return added.movedim(3, 1) if self.channels_first else added

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """s Wu and s bu: scaling them is cheaper than scaling what they give."""
        scale: Tensor | float = self.fixed_scale if self.scale is None else self.scale
        rows = scale[:, None] if isinstance(scale, torch.Tensor) else scale
        return self.up * rows, self.up_bias * scale
